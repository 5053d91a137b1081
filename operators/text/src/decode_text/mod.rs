//! `decode_text`: the text in bytes; of HTML, what a reader would see.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringBuilder, cast::AsArray};
use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, Result};
use cenote_operator::{Definition, Output, ParamType, Params, Port, PortType, RowError, Rows, row_wise};

use crate::html;
use crate::limit::check_column_bytes;

/// Bytes within which HTML announces itself.
const ANNOUNCEMENT_BYTES: usize = 1024;

pub(crate) fn definition() -> Definition {
    let summary = "Text from bytes: UTF-8, or UTF-16 with a byte order mark; HTML without its markup";
    Definition::new("decode_text", 1, summary, |params| {
        let format = TextFormat::from_params(params)?;
        Ok(row_wise(vec![Field::new("text", DataType::Utf8, true)], move |rows: &Rows<'_>| process(rows, format)))
    })
    .input(Port::new("data", PortType::Bytes))
    .param("format", ParamType::Text, "auto", "plain, html, or auto: html when the text starts like a web page")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextFormat {
    Auto,
    Plain,
    Html,
}

impl TextFormat {
    fn from_params(params: &Params) -> Result<Self> {
        match params.text("format")? {
            "auto" => Ok(Self::Auto),
            "plain" => Ok(Self::Plain),
            "html" => Ok(Self::Html),
            other => {
                Err(Error::invalid_input(format!("parameter `format` must be auto, plain or html, found `{other}`")))
            }
        }
    }
}

fn process(rows: &Rows<'_>, format: TextFormat) -> Result<Output> {
    let data = rows.column(0).as_binary::<i64>();
    let mut texts = StringBuilder::with_capacity(data.len(), 0);
    let (mut errors, mut total) = (Vec::new(), 0);
    for (row, bytes) in data.iter().enumerate() {
        match bytes.map(decode) {
            None => texts.append_null(),
            Some(Err(reason)) => {
                errors.push(RowError { row, reason });
                texts.append_null();
            }
            Some(Ok(text)) => {
                let is_html = format == TextFormat::Html || (format == TextFormat::Auto && announces_html(&text));
                let text = if is_html { Cow::Owned(html::to_text(&text)) } else { text };
                total += text.len();
                check_column_bytes(total)?;
                texts.append_value(text);
            }
        }
    }
    Ok(Output::from(vec![Arc::new(texts.finish()) as ArrayRef]).with_errors(errors))
}

/// Decodes the text in `bytes`, without its byte order mark.
fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    match bytes {
        [0xff, 0xfe, rest @ ..] => decode_utf16(rest, u16::from_le_bytes).map(Cow::Owned),
        [0xfe, 0xff, rest @ ..] => decode_utf16(rest, u16::from_be_bytes).map(Cow::Owned),
        _ => {
            let text = std::str::from_utf8(bytes).map_err(|error| {
                let at = error.valid_up_to();
                match error.error_len() {
                    Some(_) => format!("not UTF-8 text: byte {at} is 0x{:02x}", bytes[at]),
                    None => format!("not UTF-8 text: cut inside a character at byte {at}"),
                }
            })?;
            Ok(Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text)))
        }
    }
}

fn decode_utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, String> {
    let (pairs, odd) = bytes.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(format!("not UTF-16 text: cut inside a character at byte {}", bytes.len() + 1));
    }
    let mut text = String::with_capacity(bytes.len());
    let mut at = 2;
    for char in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        let char = char.map_err(|error| {
            format!("not UTF-16 text: half a surrogate pair, 0x{:04x}, at byte {at}", error.unpaired_surrogate())
        })?;
        at += char.len_utf16() * 2;
        text.push(char);
    }
    Ok(text)
}

/// Returns whether `text` starts like a web page.
fn announces_html(text: &str) -> bool {
    let text = text.trim_start();
    let head = &text.as_bytes()[..text.len().min(ANNOUNCEMENT_BYTES)];
    let contains = |mark: &[u8]| head.windows(mark.len()).any(|window| window.eq_ignore_ascii_case(mark));
    head.starts_with(b"<") && (contains(b"<!doctype html") || contains(b"<html"))
}

#[cfg(test)]
mod tests;
