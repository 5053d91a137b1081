//! The container of an image, read before any pixel is decoded: its format, and the segments of a JPEG.

use std::io::Cursor;

use image::{ImageFormat, ImageReader};

/// Bytes of an encoded image, at most. Larger ones are refused.
const ENCODED_BYTES_MAX: usize = 256 << 20;

/// Detects the format of `bytes` by their content.
///
/// # Errors
/// A reason for the person who looks at the row: empty, too large, a text, or an unknown format.
pub(crate) fn format(bytes: &[u8]) -> Result<ImageFormat, String> {
    if bytes.is_empty() {
        return Err("the image is empty: 0 bytes".to_owned());
    }
    if bytes.len() > ENCODED_BYTES_MAX {
        return Err(format!("the image has {} bytes; at most {ENCODED_BYTES_MAX} are read", bytes.len()));
    }
    if bytes.starts_with(&[0xff, 0xd8]) {
        return Ok(ImageFormat::Jpeg);
    }
    let guessed = image::guess_format(bytes).ok().filter(ImageFormat::reading_enabled);
    guessed.ok_or_else(|| format!("not an image ({}); JPEG, PNG, GIF, WebP, TIFF, BMP and ICO are read", looks(bytes)))
}

/// Opens `bytes` in `format` with the `image` crate.
pub(crate) fn reader(bytes: &[u8], format: ImageFormat) -> ImageReader<Cursor<&[u8]>> {
    ImageReader::with_format(Cursor::new(bytes), format)
}

/// Describes the first bytes for a person.
fn looks(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(24)];
    let text = String::from_utf8_lossy(head);
    if head.iter().all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace()) {
        format!("it starts with the text {:?}", text.trim_end_matches('\u{fffd}'))
    } else {
        let hex: Vec<String> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("it starts with the bytes {}", hex.join(" "))
    }
}

/// Iterates over the segments of a JPEG up to its first scan: marker and payload.
pub(crate) fn jpeg_segments(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        // Any number of fill bytes may precede a marker.
        while let [0xff, 0xff, ..] = rest {
            rest = &rest[1..];
        }
        let [0xff, marker, high, low, ..] = *rest else { return None };
        if marker == 0xda {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        let payload = rest.get(4..2 + length)?;
        rest = &rest[2 + length..];
        Some((marker, payload))
    })
}

/// Returns the EXIF block of a JPEG, without its prefix.
pub(crate) fn jpeg_exif(bytes: &[u8]) -> Option<&[u8]> {
    jpeg_segments(bytes).filter(|(marker, _)| *marker == 0xe1).find_map(|(_, body)| body.strip_prefix(b"Exif\0\0"))
}

/// Returns whether a JPEG was written by software that stores CMYK values inverted, as Adobe's does.
pub(crate) fn jpeg_is_adobe(bytes: &[u8]) -> bool {
    jpeg_segments(bytes).any(|(marker, body)| marker == 0xee && body.starts_with(b"Adobe"))
}
