//! The registry without a network: names, hashes, the user's manifests, and errors that say what to do.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use cenote_base::ErrorKind;
use cenote_models::{ModelOptions, ModelRegistry};

const PORTS: &str = r#"
[[inputs]]
name = "x"
dtype = "f32"
shape = ["rows", "2"]
meaning = "two numbers"

[[outputs]]
name = "y"
dtype = "f32"
shape = ["rows", "1"]
meaning = "their sum"
"#;

/// Makes a registry over the manifest directory `dir`, with its cache below it and fetching off.
fn registry(dir: &Path) -> ModelRegistry {
    let options = ModelOptions {
        cache_dir: Some(dir.join("cache")),
        manifest_dir: Some(dir.to_path_buf()),
        fetch: false,
        ..ModelOptions::default()
    };
    ModelRegistry::new(options).unwrap()
}

fn write(dir: &Path, name: &str, source: &str) {
    let head = format!("name = \"{name}\"\nversion = \"1\"\nsummary = \"s\"\nlicence = \"MIT\"\n");
    fs::write(dir.join(format!("{name}.toml")), format!("{head}{source}\n{PORTS}")).unwrap();
}

#[test]
fn an_unknown_name_meets_the_nearest_one() {
    let dir = tempfile::tempdir().unwrap();
    let error = registry(dir.path()).manifest("minilmm").unwrap_err();
    assert_eq!(error.message(), "no model `minilmm`: did you mean `minilm`?; `cenote models` lists them");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn hashes_need_no_file_and_tell_models_apart() {
    let dir = tempfile::tempdir().unwrap();
    let models = registry(dir.path());
    let (text, image) = (models.model_hash("minilm").unwrap(), models.model_hash("efficientnet_lite0").unwrap());
    assert_eq!((text.len(), image.len()), (64, 64));
    assert_ne!(text, image);
    assert_eq!(text, registry(dir.path()).model_hash("minilm").unwrap());
    assert!(models.status().iter().all(|status| status.provider.is_none() && status.sessions == 0));
}

#[test]
fn a_local_file_is_found_hashed_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("own.onnx");
    write(dir.path(), "own", "[source]\nkind = \"local\"\npath = \"own.onnx\"");
    let models = registry(dir.path());
    assert_eq!(models.model_file("own").unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(&file, "one").unwrap();
    assert_eq!(models.model_file("own").unwrap(), file);
    let before = models.model_hash("own").unwrap();
    fs::write(&file, "two").unwrap();
    assert_ne!(models.model_hash("own").unwrap(), before);

    let source = format!("sha256 = \"{}\"\n[source]\nkind = \"local\"\npath = \"own.onnx\"", "0".repeat(64));
    write(dir.path(), "own", &source);
    assert_eq!(registry(dir.path()).model_file("own").unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_hub_file_is_refused_with_the_place_to_put_it() {
    let dir = tempfile::tempdir().unwrap();
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let source = format!(
        "sha256 = \"{digest}\"\n[source]\nkind = \"hub\"\nrepository = \"org/clip\"\nrevision = \"abc\"\n\
         file = \"m.onnx\""
    );
    write(dir.path(), "clip", &source);
    let models = registry(dir.path());
    let error = models.model_file("clip").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let place = dir.path().join("cache/supplied/clip-1.onnx");
    assert!(error.message().contains("`m.onnx` of org/clip at abc"), "{error}");
    assert!(error.message().ends_with(&place.display().to_string()), "{error}");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, "abc").unwrap();
    assert_eq!(models.model_file("clip").unwrap(), place);
}

#[test]
fn with_fetching_off_nothing_is_fetched_or_built() {
    let dir = tempfile::tempdir().unwrap();
    let models = registry(dir.path());
    for name in ["minilm", "efficientnet_lite0"] {
        let error = models.model_file(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().starts_with(&format!("model `{name}`: ")), "{error}");
        assert!(error.message().contains("fetching is off"), "{error}");
    }
}

#[test]
fn sources_that_name_each_other_end_in_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a", "[source]\nkind = \"model\"\nname = \"b\"");
    write(dir.path(), "b", "[source]\nkind = \"model\"\nname = \"a\"");
    let models = registry(dir.path());
    assert!(models.model_hash("a").unwrap_err().message().contains("in a circle"));
    assert!(models.model_file("a").unwrap_err().message().contains("in a circle"));
}

#[test]
fn a_manifest_with_a_mistake_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.toml"), "name = 1").unwrap();
    let options = ModelOptions { manifest_dir: Some(dir.path().to_path_buf()), ..ModelOptions::default() };
    let error = ModelRegistry::new(options).err().unwrap();
    assert!(error.message().contains("bad.toml"), "{error}");
}
