//! The expansion of a fuzzy word to the words that it stands for.

use std::cmp::Ordering;

use super::plan::FuzzyWord;

/// Words that a fuzzy word stands for, at most.
pub(super) const EXPANSIONS_MAX: usize = 50;

/// A word that a fuzzy word stands for, weighted by its similarity.
#[derive(Debug, Clone)]
pub(super) struct WeightedWord {
    pub(super) word: String,
    pub(super) weight: f32,
}

/// The words that a fuzzy word stands for, and the number of rows that have the commonest of them.
#[derive(Debug, Default)]
pub(super) struct Expansion {
    pub(super) words: Vec<WeightedWord>,
    pub(super) rows_with: usize,
}

impl FuzzyWord {
    /// Returns the similarity of `word`: `1 - edits / letters of the shorter word`; `None` if there are too many edits,
    /// or no letter is left in common.
    pub(super) fn similarity(&self, word: &str) -> Option<f32> {
        let edits = distance(&self.term, word, self.edits as usize)?;
        let shorter = self.term.chars().count().min(word.chars().count());
        (edits < shorter).then(|| 1.0 - edits as f32 / shorter as f32)
    }

    /// Returns those of `words` that are similar: the most similar first, equally similar ones in alphabetical order.
    pub(super) fn ranked(&self, words: impl IntoIterator<Item = String>) -> Vec<WeightedWord> {
        let similar =
            words.into_iter().filter_map(|word| self.similarity(&word).map(|weight| WeightedWord { word, weight }));
        let mut ranked: Vec<WeightedWord> = similar.collect();
        let by_weight = |a: &WeightedWord, b: &WeightedWord| b.weight.partial_cmp(&a.weight).unwrap_or(Ordering::Equal);
        ranked.sort_unstable_by(|a, b| by_weight(a, b).then_with(|| a.word.cmp(&b.word)));
        ranked.dedup_by(|a, b| a.word == b.word);
        ranked
    }
}

/// Counts the letters to insert, delete or replace that make `b` of `a`; `None`: more than `max`.
///
/// Levenshtein: "Binary codes capable of correcting deletions, insertions, and reversals", 1966.
fn distance(a: &str, b: &str, max: usize) -> Option<usize> {
    // A letter takes at most four bytes, so a greater difference in length settles it.
    if a.len().abs_diff(b.len()) > 4 * max {
        return None;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > max {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        let mut least = row[0];
        for (j, other) in b.iter().enumerate() {
            let edits = (diagonal + usize::from(letter != other)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], edits);
            least = least.min(edits);
        }
        if least > max {
            return None;
        }
    }
    row.last().copied().filter(|edits| *edits <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted_in_letters() {
        for (a, b, edits) in [
            ("car", "car", 0),
            ("car", "cart", 1),
            ("car", "ar", 1),
            ("kitten", "sitting", 3),
            ("naïve", "naive", 1),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(a, b, 3), Some(edits), "{a} {b}");
            assert_eq!(distance(b, a, edits), Some(edits), "{b} {a}");
            assert_eq!(edits.checked_sub(1).and_then(|max| distance(a, b, max)), None, "{a} {b}");
        }
    }

    #[test]
    fn the_most_similar_word_comes_first() {
        let fuzzy = FuzzyWord { term: "abc".to_owned(), edits: 2 };
        let words = ["abcd", "abc", "abx", "x", "abcde", "a", "xyc"].map(str::to_owned);
        let ranked: Vec<String> = fuzzy.ranked(words).into_iter().map(|ranked| ranked.word).collect();
        // `a` is two edits away and has one letter.
        assert_eq!(ranked, ["abc", "abcd", "abx", "abcde", "xyc"]);
    }
}
