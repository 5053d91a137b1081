//! Tokenizers: from a text to the numbers of its tokens.

use std::path::Path;

use cenote_base::{Error, Result};
use tokenizers::TruncationParams;

/// Bytes to which a text is first cut, at white space: `BYTES_PER_TOKEN · tokens_max`, doubled while these have too few
/// tokens. So the first 256 tokens of a book do not cost the whole book.
const BYTES_PER_TOKEN: usize = 32;

/// The tokens of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The numbers of the tokens, with the special ones that begin and end a text.
    pub ids: Vec<i64>,
    /// Whether the text had more tokens than the maximum.
    pub truncated: bool,
}

/// A tokenizer read from a `tokenizer.json`. Padding and truncation that the file declares are overridden: a text has
/// its own tokens, up to the maximum.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    tokens_max: usize,
}

impl Tokenizer {
    /// Reads the tokenizer at `path`, to truncate texts to `tokens_max` tokens, special ones included.
    ///
    /// # Errors
    /// `Corrupt` when the file is not a tokenizer, `InvalidInput` when `tokens_max` leaves no room beside special
    /// tokens.
    pub fn from_file(path: &Path, tokens_max: usize) -> Result<Self> {
        if tokens_max < 3 {
            return Err(Error::invalid_input(format!("a text needs at least 3 tokens, {tokens_max} are allowed")));
        }
        let mut inner = tokenizers::Tokenizer::from_file(path).map_err(|error| {
            Error::corrupt(format!("read tokenizer {}: {error}", path.display())).with_source(error)
        })?;
        inner.with_padding(None);
        inner
            .with_truncation(Some(TruncationParams { max_length: tokens_max, ..TruncationParams::default() }))
            .map_err(|error| {
                Error::invalid_input(format!("truncate to {tokens_max} tokens: {error}")).with_source(error)
            })?;
        Ok(Self { inner, tokens_max })
    }

    /// Tokenises `text`.
    ///
    /// # Errors
    /// `Internal` when the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let mut limit = self.tokens_max.saturating_mul(BYTES_PER_TOKEN);
        loop {
            let head = until_white_space(text, limit);
            let encoding = self.inner.encode_fast(head, true).map_err(|error| {
                Error::internal(format!("tokenise a text of {} bytes: {error}", text.len())).with_source(error)
            })?;
            let truncated = !encoding.get_overflowing().is_empty();
            if truncated || head.len() == text.len() {
                return Ok(Tokens { ids: encoding.get_ids().iter().map(|&id| i64::from(id)).collect(), truncated });
            }
            limit = limit.saturating_mul(2);
        }
    }
}

/// Returns the part of `text` before the first white space at or after byte `limit`, so that no word is cut.
fn until_white_space(text: &str, limit: usize) -> &str {
    let start = (limit..text.len()).find(|&at| text.is_char_boundary(at));
    let end = start.and_then(|start| text[start..].find(char::is_whitespace).map(|offset| start + offset));
    end.map_or(text, |end| &text[..end])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Makes a word-level tokenizer whose file declares padding and truncation to 4 tokens.
    fn tokenizer(tokens_max: usize) -> Tokenizer {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        let text = r#"{"version": "1.0", "added_tokens": [], "normalizer": null,
            "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            "padding": {"strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": null,
                        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"a": 1, "b": 2, "[UNK]": 3}, "unk_token": "[UNK]"}}"#;
        std::fs::write(&path, text).unwrap();
        Tokenizer::from_file(&path, tokens_max).unwrap()
    }

    #[test]
    fn padding_and_truncation_of_the_file_are_overridden() {
        let tokenizer = tokenizer(6);
        assert_eq!(tokenizer.encode("a b").unwrap(), Tokens { ids: vec![1, 2], truncated: false });
        assert_eq!(tokenizer.encode("a b a b a").unwrap().ids, [1, 2, 1, 2, 1]);
        let cut = tokenizer.encode("a b a b a b a").unwrap();
        assert_eq!(cut, Tokens { ids: vec![1, 2, 1, 2, 1, 2], truncated: true });
    }

    #[test]
    fn a_long_text_gives_what_the_whole_text_would() {
        let tokenizer = tokenizer(6);
        let sparse = format!("a{}b {}", " ".repeat(10_000), "é".repeat(5_000));
        assert_eq!(tokenizer.encode(&sparse).unwrap().ids, [1, 2, 3]);
        assert_eq!(tokenizer.encode(&"a ".repeat(100_000)).unwrap().ids, [1; 6]);
        assert_eq!(tokenizer.encode("").unwrap().ids, [0i64; 0]);
    }

    #[test]
    fn cuts_fall_on_white_space() {
        assert_eq!(until_white_space("abc def ghi", 5), "abc def");
        assert_eq!(until_white_space("abc", 5), "abc");
        assert_eq!(until_white_space("aéé b", 2), "aéé");
        assert_eq!(until_white_space("abcdef", 2), "abcdef");
    }
}
