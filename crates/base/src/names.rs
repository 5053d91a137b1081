//! Unknown names: the suggestion of a similar known one, and the error that lists those that exist.

use crate::error::Error;

/// The least similarity, from 0 to 1, of a name that is suggested.
const LIKENESS_MIN: f64 = 0.5;

/// Returns the candidate most similar to `name`, ignoring case, if it is similar enough to be suggested.
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

/// Makes the `NotFound` error for a `what` called `name`: it suggests a similar name and lists the known ones.
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
