//! Suggestions for misspelt names.

/// Returns `: did you mean `x`?` for the candidate nearest to `name`, or an empty text when none is near.
pub(crate) fn closest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    candidates
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, candidate)| format!(": did you mean `{candidate}`?"))
}
