//! `count_words`: the length of a text in words.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, cast::AsArray};
use arrow::datatypes::{DataType, Field};
use cenote_operator::{Definition, Port, PortType, Rows, row_wise};

pub(crate) fn definition() -> Definition {
    let summary = "Number of words: runs without white space; each Chinese character and Japanese kana is a word";
    Definition::new("count_words", 1, summary, |_params| {
        Ok(row_wise(vec![Field::new("words", DataType::Int32, true)], |rows: &Rows<'_>| {
            let texts = rows.column(0).as_string::<i32>();
            // A text has fewer words than bytes, and a Utf8 column fewer bytes than an i32 can count.
            let words: Int32Array = texts.iter().map(|text| text.map(|text| count(text) as i32)).collect();
            Ok(vec![Arc::new(words) as ArrayRef].into())
        }))
    })
    .input(Port::new("text", PortType::Text))
}

fn count(text: &str) -> usize {
    let mut words = 0;
    let mut within_word = false;
    for char in text.chars() {
        if is_word_of_its_own(char) {
            words += 1;
            within_word = false;
        } else if char.is_whitespace() || is_cjk_punctuation(char) {
            within_word = false;
        } else if !within_word {
            words += 1;
            within_word = true;
        }
    }
    words
}

/// Returns whether `char` belongs to a script without spaces, in which word processors count characters.
fn is_word_of_its_own(char: char) -> bool {
    matches!(char, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}')
}

fn is_cjk_punctuation(char: char) -> bool {
    matches!(char, '\u{3000}'..='\u{303f}' | '\u{ff00}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff20}')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::StringArray;
    use cenote_operator::{OperatorSpec, Registry, conformance};

    use super::*;

    #[test]
    fn words_are_counted() {
        for (text, words) in [
            ("", 0),
            (" \n ", 0),
            ("one", 1),
            ("two words\n", 2),
            ("it's 3 o'clock", 3),
            ("我喜欢 Rust。", 4),
            ("привет мир", 2),
        ] {
            assert_eq!(count(text), words, "{text}");
        }
    }

    #[test]
    fn conforms() {
        let mut registry = Registry::default();
        registry.register(definition());
        let operator = registry.bind(&OperatorSpec::new("count_words")).unwrap();
        let good: ArrayRef = Arc::new(StringArray::from(vec!["a b c", "", "ä"]));
        conformance::check(&operator, &[good], &[]).unwrap();
    }
}
