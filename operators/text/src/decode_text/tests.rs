#![allow(clippy::unwrap_used)]
use arrow::array::LargeBinaryArray;
use cenote_operator::{OperatorSpec, Registry, conformance};

use super::*;

fn bind(format: &str) -> Result<cenote_operator::BoundOperator> {
    let mut registry = Registry::default();
    registry.register(definition());
    registry.bind(&OperatorSpec::new("decode_text").with("format", format))
}

fn column(rows: &[&[u8]]) -> ArrayRef {
    Arc::new(LargeBinaryArray::from_vec(rows.to_vec()))
}

#[test]
fn conforms() {
    let good = column(&[b"plain", b"", "\u{feff}grüße".as_bytes(), b"\xff\xfeh\0i\0", b"<html><p>a</p>"]);
    let bad = column(&[b"abc\xff", b"ab\xc3", b"\xff\xfe\x00", b"\xff\xfe\x00\xdc"]);
    conformance::check(&bind("auto").unwrap(), &[good], &[bad]).unwrap();
}

#[test]
fn bytes_become_text() {
    let rows: [(&[u8], &str); 6] = [
        (b"plain < text", "plain < text"),
        ("\u{feff}mark".as_bytes(), "mark"),
        (b"\xff\xfeh\0i\0\x3d\xd8\x00\xde", "hi😀"),
        (b"\xfe\xff\0h\0i", "hi"),
        (b" <!DOCTYPE HTML>\n<p>a &lt; b</p>", "a < b"),
        (b"<note>no page</note>", "<note>no page</note>"),
    ];
    let input = column(&rows.map(|(bytes, _)| bytes));
    let output = bind("auto").unwrap().worker().unwrap().process(&Rows::new(&[input])).unwrap();
    let texts: Vec<&str> = output.columns[0].as_string::<i32>().iter().map(Option::unwrap).collect();
    assert_eq!(texts, rows.map(|(_, text)| text));
}

#[test]
fn the_format_can_be_forced() {
    for (format, text) in [("plain", "<html><b>x</b>"), ("html", "x"), ("auto", "x")] {
        let input = column(&[b"<html><b>x</b>"]);
        let output = bind(format).unwrap().worker().unwrap().process(&Rows::new(&[input])).unwrap();
        assert_eq!(output.columns[0].as_string::<i32>().value(0), text, "{format}");
    }
    assert!(bind("pdf").is_err());
}

#[test]
fn a_reason_names_the_byte() {
    assert_eq!(decode(b"abc\xffd").unwrap_err(), "not UTF-8 text: byte 3 is 0xff");
    assert_eq!(decode(b"ab\xc3").unwrap_err(), "not UTF-8 text: cut inside a character at byte 2");
    assert_eq!(decode(b"\xff\xfea\0\0\xdc").unwrap_err(), "not UTF-16 text: half a surrogate pair, 0xdc00, at byte 4");
}
