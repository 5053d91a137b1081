//! A contact sheet: rows of thumbnails with titles and labels, as a PNG.

use std::path::Path;

use cenote_runtime::{Error, Result};
use font8x8::UnicodeFonts;
use image::{Rgb, RgbImage, imageops};

const CELL_WIDTH: u32 = 216;
const PICTURE_HEIGHT: u32 = 160;
const LABEL_HEIGHT: u32 = 18;
const TITLE_HEIGHT: u32 = 44;
const MARGIN: u32 = 20;
const GLYPH: u32 = 8;

const PAPER: Rgb<u8> = Rgb([250, 250, 247]);
const INK: Rgb<u8> = Rgb([32, 36, 40]);
const FAINT: Rgb<u8> = Rgb([110, 116, 122]);

/// Pictures under one title.
pub struct Row {
    pub title: String,
    /// A label and an encoded picture each.
    pub pictures: Vec<(String, Vec<u8>)>,
}

/// Draws `rows` and writes the sheet to `path`.
pub fn write(rows: &[Row], path: &Path) -> Result<()> {
    let columns = rows.iter().map(|row| row.pictures.len()).max().unwrap_or(1).max(1) as u32;
    let row_height = TITLE_HEIGHT + PICTURE_HEIGHT + LABEL_HEIGHT;
    let mut sheet =
        RgbImage::from_pixel(columns * CELL_WIDTH + 2 * MARGIN, rows.len() as u32 * row_height + MARGIN, PAPER);
    for (number, row) in rows.iter().enumerate() {
        let top = number as u32 * row_height;
        text(&mut sheet, MARGIN, top + MARGIN, 2, INK, &row.title);
        for (column, (label, picture)) in row.pictures.iter().enumerate() {
            let left = MARGIN + column as u32 * CELL_WIDTH;
            let wrong = |source| Error::invalid_input(format!("picture `{label}` cannot be drawn")).with_source(source);
            let picture = image::load_from_memory(picture).map_err(wrong)?;
            let small = picture.thumbnail(CELL_WIDTH - 12, PICTURE_HEIGHT - 6).to_rgb8();
            // Stands on the line above its label.
            let y = top + TITLE_HEIGHT + PICTURE_HEIGHT - 4 - small.height();
            imageops::replace(&mut sheet, &small, i64::from(left), i64::from(y));
            text(&mut sheet, left, top + TITLE_HEIGHT + PICTURE_HEIGHT + 2, 1, FAINT, label);
        }
    }
    sheet.save(path).map_err(|source| Error::unavailable(format!("write {}", path.display())).with_source(source))
}

/// Draws `text` in an 8×8 bitmap font, `scale` pixels a dot; what the font lacks is left blank.
fn text(sheet: &mut RgbImage, left: u32, top: u32, scale: u32, ink: Rgb<u8>, text: &str) {
    for (at, glyph) in text.chars().map(|c| font8x8::BASIC_FONTS.get(c)).enumerate() {
        for (y, bits) in glyph.unwrap_or_default().into_iter().enumerate() {
            for x in (0..GLYPH).filter(|x| bits & (1 << x) != 0) {
                let (dot_x, dot_y) = (left + (at as u32 * GLYPH + x) * scale, top + y as u32 * scale);
                for (dx, dy) in (0..scale).flat_map(|dx| (0..scale).map(move |dy| (dx, dy))) {
                    if let Some(pixel) = sheet.get_pixel_mut_checked(dot_x + dx, dot_y + dy) {
                        *pixel = ink;
                    }
                }
            }
        }
    }
}
