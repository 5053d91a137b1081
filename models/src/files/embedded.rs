//! Files that are compiled into Cenote: manifests, converter scripts and their inputs.

use cenote_base::{Result, unknown};

/// Built-in manifests, by file name.
pub(crate) const MANIFESTS: &[(&str, &str)] = &[
    ("efficientnet_lite0.toml", include_str!("../../manifests/efficientnet_lite0.toml")),
    ("minilm.toml", include_str!("../../manifests/minilm.toml")),
];

/// Built-in converter scripts and their inputs, by file name.
const FILES: &[(&str, &str)] = &[
    ("efficientnet_lite0.py", include_str!("../../convert/efficientnet_lite0.py")),
    ("imagenet_labels.txt", include_str!("../../convert/imagenet_labels.txt")),
    ("requirements.txt", include_str!("../../convert/requirements.txt")),
];

/// Returns the text of the embedded file `name`.
///
/// # Errors
/// `NotFound`, naming the embedded files.
pub(super) fn text(name: &str) -> Result<&'static str> {
    let found = FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| *text);
    found.ok_or_else(|| unknown("embedded file", name, FILES.iter().map(|(file, _)| *file)))
}
