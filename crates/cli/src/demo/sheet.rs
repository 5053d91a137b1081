//! A contact sheet: a PNG with rows of thumbnails, titles and labels.

use std::path::Path;

use cenote_runtime::{Error, Result};
use font8x8::UnicodeFonts;
use image::{Rgb, RgbImage, imageops};

const MARGIN: u32 = 28;
const HEADING_HEIGHT: u32 = 72;
const CELL_WIDTH: u32 = 212;
const PICTURE_WIDTH: u32 = 192;
const PICTURE_HEIGHT: u32 = 192;
const TITLE_HEIGHT: u32 = 32;
const LABEL_HEIGHT: u32 = 60;
const LINE_HEIGHT: u32 = 14;
const FRAME_WIDTH: u32 = 4;
const GLYPH: u32 = 8;

const PAPER: Rgb<u8> = Rgb([250, 250, 247]);
const CARD: Rgb<u8> = Rgb([238, 237, 231]);
const INK: Rgb<u8> = Rgb([32, 36, 40]);
const FAINT: Rgb<u8> = Rgb([110, 116, 122]);
const ACCENT: Rgb<u8> = Rgb([196, 78, 28]);

/// A row of pictures under one title.
pub struct SheetRow {
    pub title: String,
    pub pictures: Vec<SheetPicture>,
}

/// An encoded picture and its labels.
pub struct SheetPicture {
    pub label: String,
    pub detail: String,
    /// A highlighted word.
    pub badge: Option<&'static str>,
    /// Whether it has a frame, which marks the picture that the others are compared with.
    pub is_framed: bool,
    pub bytes: Vec<u8>,
}

/// Draws `rows` under `heading` and writes the sheet to `path`.
pub fn write(heading: &str, rows: &[SheetRow], path: &Path) -> Result<()> {
    let columns = rows.iter().map(|row| row.pictures.len()).max().unwrap_or(1).max(1) as u32;
    let row_height = TITLE_HEIGHT + PICTURE_HEIGHT + LABEL_HEIGHT;
    let width = columns * CELL_WIDTH - (CELL_WIDTH - PICTURE_WIDTH) + 2 * MARGIN;
    let height = HEADING_HEIGHT + rows.len() as u32 * row_height + MARGIN / 2;
    let mut sheet = RgbImage::from_pixel(width, height, PAPER);
    text(&mut sheet, MARGIN, MARGIN, 2, INK, heading);
    for (number, row) in rows.iter().enumerate() {
        let top = HEADING_HEIGHT + number as u32 * row_height;
        text(&mut sheet, MARGIN, top, 2, FAINT, &row.title);
        for (column, picture) in row.pictures.iter().enumerate() {
            cell(&mut sheet, MARGIN + column as u32 * CELL_WIDTH, top + TITLE_HEIGHT, picture)?;
        }
    }
    sheet.save(path).map_err(|source| Error::unavailable(format!("write {}", path.display())).with_source(source))
}

/// Draws a picture in the middle of its card, and its labels below.
fn cell(sheet: &mut RgbImage, left: u32, top: u32, picture: &SheetPicture) -> Result<()> {
    let wrong =
        |source| Error::invalid_input(format!("picture `{}` cannot be drawn", picture.label)).with_source(source);
    let decoded = image::load_from_memory(&picture.bytes).map_err(wrong)?;
    let small = decoded.resize(PICTURE_WIDTH, PICTURE_HEIGHT, imageops::FilterType::Triangle).to_rgb8();
    if picture.is_framed {
        let (left, top) = (left - FRAME_WIDTH, top - FRAME_WIDTH);
        fill(sheet, left, top, PICTURE_WIDTH + 2 * FRAME_WIDTH, PICTURE_HEIGHT + 2 * FRAME_WIDTH, ACCENT);
    }
    fill(sheet, left, top, PICTURE_WIDTH, PICTURE_HEIGHT, CARD);
    let (x, y) = (left + (PICTURE_WIDTH - small.width()) / 2, top + (PICTURE_HEIGHT - small.height()) / 2);
    imageops::replace(sheet, &small, i64::from(x), i64::from(y));
    let below = top + PICTURE_HEIGHT + 10;
    text(sheet, left, below, 1, INK, &fit(&picture.label));
    text(sheet, left, below + LINE_HEIGHT, 1, FAINT, &fit(&picture.detail));
    if let Some(badge) = picture.badge {
        text(sheet, left + PICTURE_WIDTH - badge.len() as u32 * GLYPH, below + LINE_HEIGHT, 1, ACCENT, badge);
    }
    Ok(())
}

/// Cuts `label` to the width of a picture.
fn fit(label: &str) -> String {
    let chars_max = (PICTURE_WIDTH / GLYPH) as usize;
    if label.chars().count() <= chars_max {
        return label.to_owned();
    }
    label.chars().take(chars_max - 2).chain("..".chars()).collect()
}

fn fill(sheet: &mut RgbImage, left: u32, top: u32, width: u32, height: u32, ink: Rgb<u8>) {
    imageops::replace(sheet, &RgbImage::from_pixel(width, height, ink), i64::from(left), i64::from(top));
}

/// Draws `text` in an 8×8 bitmap font, `scale` pixels per dot; characters that the font lacks are blank.
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
