#![allow(clippy::unwrap_used)]
use std::time::{Duration, Instant};

use arrow::array::StringArray;
use cenote_base::Random;
use cenote_operator::{OperatorSpec, Registry, conformance};

use super::*;

fn bind(spec: &OperatorSpec) -> Result<cenote_operator::BoundOperator> {
    let mut registry = Registry::default();
    registry.register(definition());
    registry.bind(spec)
}

fn pieces(text: &str, max_chars: usize, overlap: usize) -> Vec<&str> {
    Chunker { max_chars, overlap }.pieces(text).map(|piece| &text[piece]).collect()
}

#[test]
fn conforms() {
    let operator = bind(&OperatorSpec::new("chunk_text").with("max_chars", 20).with("overlap", 5)).unwrap();
    let good: ArrayRef =
        Arc::new(StringArray::from(vec!["short", "", "a longer text, which is cut in pieces. Is it?", "äöü"]));
    conformance::check(&operator, &[good], &[]).unwrap();
}

#[test]
fn paragraphs_come_before_sentences_before_words() {
    assert_eq!(pieces("One two three.\n\nFour. Five six.", 20, 0), ["One two three.", "Four. Five six."]);
    assert_eq!(pieces("One two three. Four five six seven.", 20, 0), ["One two three.", "Four five six seven."]);
    assert_eq!(pieces("one two three four five", 15, 0), ["one two three", "four five"]);
    assert_eq!(pieces("abcdefghij", 4, 0), ["abcd", "efgh", "ij"]);
    assert_eq!(pieces("ääää öööö", 4, 0), ["ääää", "öööö"]);
    assert_eq!(pieces("我们去。他们来。大家都好", 5, 0), ["我们去。", "他们来。", "大家都好"]);
    assert!(pieces(" \n ", 5, 0).is_empty());
}

#[test]
fn pieces_overlap_at_words() {
    assert_eq!(pieces("one two three four five six", 14, 6), ["one two three", "three four", "four five six"]);
}

#[test]
fn any_text_is_covered_in_bounded_pieces() {
    let mut random = Random::new(7);
    let letters: Vec<char> = "ab. !\n\n\tä我。😀\"".chars().collect();
    for _ in 0..2000 {
        let length = random.below(120);
        let text: String = (0..length).map(|_| letters[random.below(letters.len() as u64) as usize]).collect();
        let max_chars = 1 + random.below(20) as usize;
        let overlap = random.below(max_chars as u64 / 2 + 1) as usize;
        let mut covered = 0;
        let mut last_start = None;
        for Range { start, end } in (Chunker { max_chars, overlap }).pieces(&text) {
            assert!(text[start..end].chars().count() <= max_chars);
            assert!(last_start.is_none_or(|last| start > last), "{text:?} {max_chars} {overlap}");
            assert!(covered >= start || text[covered..start].trim().is_empty(), "{text:?} {max_chars} {overlap}");
            (covered, last_start) = (covered.max(end), Some(start));
        }
        assert!(text[covered..].trim().is_empty());
    }
}

#[test]
fn one_long_line_takes_linear_time() {
    for text in ["x".repeat(20_000_000), "word ".repeat(4_000_000), " ".repeat(20_000_000)] {
        let start = Instant::now();
        let count = Chunker { max_chars: 800, overlap: 100 }.pieces(&text).count();
        assert!(count <= 20_000_000 / 300);
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}

#[test]
fn wrong_parameters_are_refused() {
    for (max_chars, overlap) in [(0, 0), (10, 6), (2_000_000, 0)] {
        let spec = OperatorSpec::new("chunk_text").with("max_chars", max_chars).with("overlap", overlap);
        assert!(bind(&spec).is_err(), "{max_chars} {overlap}");
    }
}

#[test]
fn offsets_point_into_the_parent() {
    let text = "Ä first sentence. A second one, longer. And a third.";
    let operator = bind(&OperatorSpec::new("chunk_text").with("max_chars", 25).with("overlap", 8)).unwrap();
    let input: ArrayRef = Arc::new(StringArray::from(vec![None, Some(text)]));
    let output = operator.worker().unwrap().process(&Rows::new(&[input])).unwrap();
    let starts = output.columns[1].as_primitive::<arrow::datatypes::Int64Type>();
    let ends = output.columns[2].as_primitive::<arrow::datatypes::Int64Type>();
    assert!(starts.len() >= 2);
    for (row, piece) in output.columns[0].as_string::<i32>().iter().enumerate() {
        assert_eq!(piece.unwrap(), &text[starts.value(row) as usize..ends.value(row) as usize]);
        assert_eq!(output.parents.as_ref().unwrap().value(row), 1);
    }
}
