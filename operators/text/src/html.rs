//! HTML to text: what a reader would see, in one pass over any input, however broken.
//!
//! This is not a browser: it knows no scripts, no styles and no hidden elements. Tags are dropped, blocks become lines,
//! entities become characters, and white space collapses outside `<pre>`.

use crate::entity;

/// Elements that are dropped with their content.
const DROPPED: [&str; 5] = ["script", "style", "template", "noscript", "svg"];
/// Elements with an empty line around them.
const PARAGRAPHS: [&str; 22] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "dl",
    "fieldset",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "main",
    "ol",
    "p",
    "pre",
    "section",
    "ul",
];
/// Elements on lines of their own.
const LINES: [&str; 18] = [
    "body",
    "br",
    "caption",
    "dd",
    "details",
    "div",
    "dt",
    "figcaption",
    "head",
    "hr",
    "html",
    "li",
    "nav",
    "option",
    "summary",
    "table",
    "title",
    "tr",
];

/// Returns the readable text of `html`.
pub(crate) fn to_text(html: &str) -> String {
    let mut page = Page { text: String::with_capacity(html.len() / 2), ..Page::default() };
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        page.write(&rest[..open]);
        rest = page.markup(&rest[open..]);
    }
    page.write(rest);
    page.text
}

/// The text so far, and the white space due before the next character.
#[derive(Default)]
struct Page {
    text: String,
    newlines: usize,
    space: bool,
    preformatted: usize,
}

impl Page {
    /// Takes the markup at the start of `at`, which is a `<`, and returns what follows it.
    fn markup<'a>(&mut self, at: &'a str) -> &'a str {
        let after =
            |end: &str, skip: usize| at.get(skip..).and_then(|rest| rest.split_once(end)).map_or("", |(_, rest)| rest);
        match at.as_bytes() {
            [b'<', b'!', b'-', b'-', ..] => after("-->", 4),
            [b'<', b'!' | b'?', ..] => after(">", 2),
            [b'<', b'/', letter, ..] if letter.is_ascii_alphabetic() => {
                let (name, rest) = split_tag(&at[2..]);
                self.close(&name);
                rest
            }
            [b'<', letter, ..] if letter.is_ascii_alphabetic() => {
                let (name, rest) = split_tag(&at[1..]);
                if DROPPED.contains(&name.as_str()) {
                    return after_element(&name, rest);
                }
                self.open(&name);
                rest
            }
            _ => {
                self.write("<");
                &at[1..]
            }
        }
    }

    fn open(&mut self, name: &str) {
        self.break_at(name);
        self.preformatted += usize::from(name == "pre");
    }

    fn close(&mut self, name: &str) {
        self.break_at(name);
        if name == "pre" {
            self.preformatted = self.preformatted.saturating_sub(1);
        }
    }

    fn break_at(&mut self, name: &str) {
        if PARAGRAPHS.contains(&name) {
            self.newlines = self.newlines.max(2);
        } else if LINES.contains(&name) {
            self.newlines = self.newlines.max(1);
        } else if name == "td" || name == "th" {
            self.space = true;
        }
    }

    /// Writes text between tags.
    fn write(&mut self, raw: &str) {
        let mut rest = raw;
        while let Some(ampersand) = rest.find('&') {
            self.write_plain(&rest[..ampersand]);
            let (char, length) = entity::decode(&rest[ampersand..]);
            // To a reader, a non-breaking space is a space and a soft hyphen is nothing.
            match char {
                '\u{a0}' => self.write_char(' '),
                '\u{ad}' => {}
                _ => self.write_char(char),
            }
            rest = &rest[ampersand + length..];
        }
        self.write_plain(rest);
    }

    fn write_plain(&mut self, text: &str) {
        text.chars().for_each(|char| self.write_char(char));
    }

    fn write_char(&mut self, char: char) {
        if char.is_whitespace() {
            if self.preformatted == 0 {
                self.space = true;
            } else if char == '\n' {
                self.space = false;
                self.newlines += 1;
            } else {
                self.flush();
                self.text.push(char);
            }
            return;
        }
        self.flush();
        self.text.push(char);
    }

    /// Writes the white space that is due, except at the very start.
    fn flush(&mut self) {
        if !self.text.is_empty() {
            if self.newlines > 0 {
                self.text.extend(std::iter::repeat_n('\n', self.newlines));
            } else if self.space {
                self.text.push(' ');
            }
        }
        (self.newlines, self.space) = (0, false);
    }
}

/// Splits off the tag at the start of `tag`, and returns its name in lower case and what follows it. A `>` inside
/// quotes does not end a tag; one that never ends swallows the rest.
fn split_tag(tag: &str) -> (String, &str) {
    let length = tag.find(|char: char| !(char.is_ascii_alphanumeric() || char == '-')).unwrap_or(tag.len());
    let mut quote = None;
    let mut before = b' ';
    for (at, &byte) in tag.as_bytes().iter().enumerate().skip(length) {
        match (quote, byte) {
            (None, b'>') => return (tag[..length].to_ascii_lowercase(), &tag[at + 1..]),
            // A quote opens a value only after an equals sign: elsewhere it is a mistake of the author.
            (None, b'"' | b'\'') if before == b'=' => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
        if !byte.is_ascii_whitespace() {
            before = byte;
        }
    }
    (tag[..length].to_ascii_lowercase(), "")
}

/// Returns what follows the end tag of element `name`, in whose content `rest` starts; empty if it never ends.
fn after_element<'a>(name: &str, rest: &'a str) -> &'a str {
    let bytes = rest.as_bytes();
    let ends = |at: usize| {
        let tail = &bytes[at + 2..];
        tail.len() >= name.len() && tail[..name.len()].eq_ignore_ascii_case(name.as_bytes())
    };
    let end = rest.match_indices("</").map(|(at, _)| at).find(|&at| ends(at));
    end.map_or("", |at| split_tag(&rest[at + 2..]).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_what_a_reader_sees() {
        let page = "<!DOCTYPE html><html><head><title>A &amp; B</title><style>p { color: red }</style></head>\n\
            <body><!-- no --><h1>Head\n line</h1><p>One <b>bold</b> word.<br>\
            Next<script>if (a < b) { alert('</p>') }</script></p>\
            <ul><li>x</li><li>y &#228;&#xe9;&nbsp;z</li></ul>\
            <table><tr><td>1</td><td>2</td></tr></table></body></html>";
        assert_eq!(to_text(page), "A & B\n\nHead line\n\nOne bold word.\nNext\n\nx\ny äé z\n\n1 2");
    }

    #[test]
    fn broken_markup_is_survived() {
        for (html, text) in [
            ("a < b and c > d", "a < b and c > d"),
            ("x <a href=\"a>b\">y</a>", "x y"),
            ("<p>never closed <b", "never closed"),
            ("<script>alert(1)", ""),
            ("<SCRIPT>x</ScRiPt >after", "after"),
            ("<!-- open", ""),
            ("&unknown; &amp &#xFFFFFFFF; &#0; &", "&unknown; & \u{fffd} \u{fffd} &"),
            ("<", "<"),
            ("</", "</"),
            ("<pre>a\n  b</pre>c", "a\n  b\n\nc"),
            ("", ""),
        ] {
            assert_eq!(to_text(html), text, "{html}");
        }
    }

    #[test]
    fn hostile_pages_take_linear_time() {
        for piece in ["<", "<a ", "<script>", "<!--", "&", "&#", "</", "<p \"'", "<pre>"] {
            to_text(&piece.repeat(200_000));
        }
    }
}
