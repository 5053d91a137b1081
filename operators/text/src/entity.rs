//! HTML character references.

/// Bytes of a reference's name that are looked at.
const REFERENCE_BYTES_MAX: usize = 12;

/// The names of U+00A0 to U+00FF, in order.
const LATIN: [&str; 96] = [
    "nbsp", "iexcl", "cent", "pound", "curren", "yen", "brvbar", "sect", "uml", "copy", "ordf", "laquo", "not", "shy",
    "reg", "macr", "deg", "plusmn", "sup2", "sup3", "acute", "micro", "para", "middot", "cedil", "sup1", "ordm",
    "raquo", "frac14", "frac12", "frac34", "iquest", "Agrave", "Aacute", "Acirc", "Atilde", "Auml", "Aring", "AElig",
    "Ccedil", "Egrave", "Eacute", "Ecirc", "Euml", "Igrave", "Iacute", "Icirc", "Iuml", "ETH", "Ntilde", "Ograve",
    "Oacute", "Ocirc", "Otilde", "Ouml", "times", "Oslash", "Ugrave", "Uacute", "Ucirc", "Uuml", "Yacute", "THORN",
    "szlig", "agrave", "aacute", "acirc", "atilde", "auml", "aring", "aelig", "ccedil", "egrave", "eacute", "ecirc",
    "euml", "igrave", "iacute", "icirc", "iuml", "eth", "ntilde", "ograve", "oacute", "ocirc", "otilde", "ouml",
    "divide", "oslash", "ugrave", "uacute", "ucirc", "uuml", "yacute", "thorn", "yuml",
];

/// Names beyond Latin-1.
const OTHERS: [(&str, char); 34] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("AMP", '&'),
    ("LT", '<'),
    ("GT", '>'),
    ("QUOT", '"'),
    ("hellip", '…'),
    ("mdash", '—'),
    ("ndash", '–'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("sbquo", '‚'),
    ("ldquo", '“'),
    ("rdquo", '”'),
    ("bdquo", '„'),
    ("lsaquo", '‹'),
    ("rsaquo", '›'),
    ("bull", '•'),
    ("euro", '€'),
    ("trade", '™'),
    ("dagger", '†'),
    ("permil", '‰'),
    ("prime", '′'),
    ("minus", '−'),
    ("larr", '←'),
    ("rarr", '→'),
    ("le", '≤'),
    ("ge", '≥'),
    ("ne", '≠'),
    ("infin", '∞'),
    ("OElig", 'Œ'),
];

/// Windows-1252 from 0x80 to 0x9f, which the HTML standard has these numbers stand for.
const WINDOWS: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Decodes the reference at the start of `at`, which is a `&`, and returns its character and its length in bytes. A `&`
/// that starts no known reference stands for itself.
pub(crate) fn decode(at: &str) -> (char, usize) {
    let body = &at[1..];
    let (digits, radix) = match body.as_bytes() {
        [b'#', b'x' | b'X', ..] => (2, 16),
        [b'#', ..] => (1, 10),
        _ => return named(body).unwrap_or(('&', 1)),
    };
    let length = body.bytes().skip(digits).take_while(|byte| char::from(*byte).is_digit(radix)).take(4096).count();
    if length == 0 {
        return ('&', 1);
    }
    let number = u32::from_str_radix(&body[digits..digits + length], radix).unwrap_or(u32::MAX);
    let char = match number {
        0x80..=0x9f => WINDOWS[number as usize - 0x80],
        _ => char::from_u32(number).filter(|char| *char != '\0').unwrap_or('\u{fffd}'),
    };
    let semicolon = usize::from(body.as_bytes().get(digits + length) == Some(&b';'));
    (char, 1 + digits + length + semicolon)
}

fn named(body: &str) -> Option<(char, usize)> {
    let length = body.bytes().take(REFERENCE_BYTES_MAX).take_while(u8::is_ascii_alphanumeric).count();
    let name = &body[..length];
    let latin = || LATIN.iter().zip('\u{a0}'..).find(|(known, _)| **known == name).map(|(_, char)| char);
    let char = OTHERS.iter().find(|(known, _)| *known == name).map(|(_, char)| *char).or_else(latin)?;
    Some((char, 1 + length + usize::from(body.as_bytes().get(length) == Some(&b';'))))
}
