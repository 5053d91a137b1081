//! `chunk_text`: a text in pieces of bounded size, cut where a reader would pause.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Builder, StringBuilder, UInt32Builder, cast::AsArray};
use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, Result};
use cenote_operator::{Definition, Output, ParamType, Params, Port, PortType, Rows, Shape, row_wise};

use crate::limit::check_column_bytes;

pub(crate) fn definition() -> Definition {
    Definition::new("chunk_text", 1, "Pieces of a text, cut at paragraphs, else sentences, else words", |params| {
        let chunker = Chunker::from_params(params)?;
        let fields = vec![
            Field::new("text", DataType::Utf8, true),
            Field::new("start", DataType::Int64, true),
            Field::new("end", DataType::Int64, true),
        ];
        Ok(row_wise(fields, move |rows: &Rows<'_>| chunker.process(rows)))
    })
    .shape(Shape::OneToMany)
    .input(Port::new("text", PortType::Text))
    .param("max_chars", ParamType::Unsigned, 800, "Characters in a piece, at most; from 1 to 1000000")
    .param(
        "overlap",
        ParamType::Unsigned,
        100,
        "Characters that a piece repeats of the previous one, at most half of max_chars",
    )
}

/// The bounds of the pieces.
#[derive(Debug, Clone, Copy)]
struct Chunker {
    max_chars: usize,
    overlap: usize,
}

/// The last places at which a piece may end, the best kind first.
#[derive(Debug, Clone, Copy, Default)]
struct Pauses {
    paragraph: Option<usize>,
    sentence: Option<usize>,
    word: Option<usize>,
}

impl Chunker {
    fn from_params(params: &Params) -> Result<Self> {
        let (max_chars, overlap) = (params.unsigned_in("max_chars", 1..=1_000_000)?, params.unsigned("overlap")?);
        if overlap > max_chars / 2 {
            return Err(Error::invalid_input(format!(
                "parameter `overlap` must be at most half of max_chars, {}, found {overlap}",
                max_chars / 2
            )));
        }
        Ok(Self { max_chars: max_chars as usize, overlap: overlap as usize })
    }

    fn process(&self, rows: &Rows<'_>) -> Result<Output> {
        let (mut pieces, mut parents) = (StringBuilder::new(), UInt32Builder::new());
        let (mut starts, mut ends) = (Int64Builder::new(), Int64Builder::new());
        let mut bytes = 0;
        for (row, text) in rows.column(0).as_string::<i32>().iter().enumerate() {
            let Some(text) = text else { continue };
            for piece in self.pieces(text) {
                bytes += piece.len();
                check_column_bytes(bytes)?;
                pieces.append_value(&text[piece.clone()]);
                starts.append_value(piece.start as i64);
                ends.append_value(piece.end as i64);
                parents.append_value(row as u32);
            }
        }
        let columns: Vec<ArrayRef> =
            vec![Arc::new(pieces.finish()), Arc::new(starts.finish()), Arc::new(ends.finish())];
        Ok(Output { columns, parents: Some(parents.finish()), errors: Vec::new() })
    }

    /// Iterates over the byte ranges of the pieces of `text`, in order, without white space at their ends.
    ///
    /// Takes time linear in `text`: a piece looks at no more than `max_chars` characters, and the next one starts at
    /// least a quarter of that further on.
    fn pieces(self, text: &str) -> impl Iterator<Item = Range<usize>> {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            while let Some(from) = next {
                let from = from + leading_space(&text[from..]);
                let end = self.end(text, from);
                next = (end < text.len()).then(|| self.restart(text, from, end));
                let piece = text[from..end].trim_end();
                if !piece.is_empty() {
                    return Some(from..from + piece.len());
                }
            }
            None
        })
    }

    /// Returns the end of the piece that starts at `from`: the end of the text, else the last pause of the best kind,
    /// else the place after the last character that fits. Pauses in the first half of what is new are ignored, so that
    /// no piece is tiny.
    fn end(self, text: &str, from: usize) -> usize {
        let chars_min = self.overlap + (self.max_chars - self.overlap) / 2;
        let mut pauses = Pauses::default();
        let mut before = '\0';
        let mut ended_sentence = false;
        let mut newlines = 0;
        for (count, (offset, char)) in text[from..].char_indices().enumerate() {
            let at = from + offset;
            if count > chars_min || count == self.max_chars {
                if newlines >= 2 && !char.is_whitespace() {
                    pauses.paragraph = Some(at);
                }
                if (ended_sentence && char.is_whitespace()) || is_full_width_stop(before) || before == '\n' {
                    pauses.sentence = Some(at);
                }
                if char.is_whitespace() || before.is_whitespace() {
                    pauses.word = Some(at);
                }
            }
            if count == self.max_chars {
                return pauses.paragraph.or(pauses.sentence).or(pauses.word).unwrap_or(at);
            }
            newlines = if char == '\n' { newlines + 1 } else { newlines * usize::from(char.is_whitespace()) };
            ended_sentence = match char {
                '.' | '!' | '?' | '…' => true,
                '"' | '\'' | ')' | ']' | '”' | '’' | '»' => ended_sentence,
                _ => false,
            };
            before = char;
        }
        text.len()
    }

    /// Returns the start of the piece after the one from `from` to `end`: `overlap` characters before `end`, or the
    /// next word.
    fn restart(self, text: &str, from: usize, end: usize) -> usize {
        let Some((back, _)) = text[from..end].char_indices().rev().take(self.overlap).last() else { return end };
        let back = from + back;
        let within_word = text[..back].chars().next_back().is_some_and(|char| !char.is_whitespace());
        if !within_word {
            return back;
        }
        text[back..end].find(char::is_whitespace).map_or(back, |space| back + space)
    }
}

fn leading_space(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

fn is_full_width_stop(char: char) -> bool {
    matches!(char, '。' | '！' | '？' | '．')
}

#[cfg(test)]
mod tests;
