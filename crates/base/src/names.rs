//! Names that are not there: the guess at the name that was meant, and the error that lists those there are.

use crate::error::Error;

/// The least likeness, from 0 to 1, of a name that may have been meant.
const LIKENESS_MIN: f64 = 0.5;

/// Returns the candidate most like `name`, whatever the case of its letters, if any is like enough to have been meant.
///
/// ```
/// use cenote_base::closest;
///
/// assert_eq!(closest("phtos", ["notes", "photos"]), Some("photos"));
/// assert_eq!(closest("clips", ["notes", "photos"]), None);
/// ```
pub fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let likeness = |candidate: &str| strsim::normalized_damerau_levenshtein(&name, &candidate.to_lowercase());
    candidates
        .into_iter()
        .map(|candidate| (likeness(candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Returns `: did you mean …?` for the [`closest`] candidate, or an empty text without one.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    closest(name, candidates).map_or_else(String::new, |candidate| format!(": did you mean `{candidate}`?"))
}

/// Makes the `NotFound` for a `what` called `name`, which lists the names there are.
///
/// ```
/// use cenote_base::unknown;
///
/// let error = unknown("table", "photo", ["notes", "photos"]);
/// assert_eq!(error.message(), "no table `photo`: did you mean `photos`?; there are notes, photos");
/// ```
pub fn unknown<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    let known: Vec<&str> = known.into_iter().collect();
    let hint = did_you_mean(name, known.iter().copied());
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Error::not_found(format!("no {what} `{name}`{hint}; there are {known}"))
}
