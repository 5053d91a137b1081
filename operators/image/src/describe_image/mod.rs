//! `describe_image`: the metadata of an image, read without decoding its pixels.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, TimeUnit};
use cenote_operator::{Definition, Output, Port, PortType, Rows, row_wise};
use chrono::NaiveDate;
use exif::{Exif, In, Tag, Value};
use image::metadata::Orientation;
use image::{ImageDecoder, ImageFormat, Limits};

use crate::{container, decode, rows};

pub(crate) fn definition() -> Definition {
    Definition::new(
        "describe_image",
        1,
        "Size, format, orientation, time and camera, without decoding pixels",
        |_params| {
            let fields = vec![
                Field::new("width", DataType::Int32, true),
                Field::new("height", DataType::Int32, true),
                Field::new("format", DataType::Utf8, true),
                Field::new("orientation", DataType::Int32, true),
                Field::new("taken", DataType::Timestamp(TimeUnit::Microsecond, None), true),
                Field::new("camera", DataType::Utf8, true),
            ];
            Ok(row_wise(fields, |rows: &Rows<'_>| {
                let (about, errors) = rows::map(rows, describe)?;
                let each = || about.iter().map(Option::as_ref);
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(each().map(|about| Some(about?.width)).collect::<Int32Array>()),
                    Arc::new(each().map(|about| Some(about?.height)).collect::<Int32Array>()),
                    Arc::new(each().map(|about| Some(about?.format)).collect::<StringArray>()),
                    Arc::new(each().map(|about| about?.orientation).collect::<Int32Array>()),
                    Arc::new(each().map(|about| about?.taken_micros).collect::<TimestampMicrosecondArray>()),
                    Arc::new(each().map(|about| about?.camera.as_deref()).collect::<StringArray>()),
                ];
                Ok(Output::from(columns).with_errors(errors))
            }))
        },
    )
    .input(Port::new("image", PortType::Bytes))
}

/// The metadata of one image.
struct About {
    /// The width in pixels, as displayed.
    width: i32,
    /// The height in pixels, as displayed.
    height: i32,
    /// The format in lower case: `jpeg`, `png`, `gif`, `webp`, `tiff`, `bmp` or `ico`.
    format: &'static str,
    /// The EXIF orientation, 1 to 8; `None` if the image has none.
    orientation: Option<i32>,
    /// The time on the camera's clock, taken for UTC: EXIF names no time zone.
    taken_micros: Option<i64>,
    camera: Option<String>,
}

fn describe(bytes: &[u8]) -> Result<About, String> {
    let format = container::format(bytes)?;
    catch_unwind(AssertUnwindSafe(|| describe_as(bytes, format)))
        .unwrap_or_else(|_| Err(format!("the {} reader failed on this file", decode::name(format))))
}

fn describe_as(bytes: &[u8], format: ImageFormat) -> Result<About, String> {
    let wrong = |error: image::ImageError| decode::image_reason(format, &error);
    let (width, height) = match format {
        ImageFormat::Jpeg => jpeg_size(bytes).ok_or_else(|| "the JPEG is truncated before its size".to_owned())?,
        _ => {
            let mut reader = container::reader(bytes, format);
            reader.limits(Limits::default());
            reader.into_decoder().map_err(wrong)?.dimensions()
        }
    };
    let exif = read_exif(bytes);
    let orientation = exif.as_ref().and_then(|exif| exif.get_field(Tag::Orientation, In::PRIMARY)?.value.get_uint(0));
    let orientation = orientation.and_then(|number| u8::try_from(number).ok()).and_then(Orientation::from_exif);
    let (width, height) = if orientation.is_some_and(decode::turns) { (height, width) } else { (width, height) };
    let side = |pixels: u32| i32::try_from(pixels).map_err(|_| format!("the image has {width} × {height} pixels"));
    Ok(About {
        width: side(width)?,
        height: side(height)?,
        format: match format {
            ImageFormat::Jpeg => "jpeg",
            ImageFormat::Png => "png",
            ImageFormat::Gif => "gif",
            ImageFormat::WebP => "webp",
            ImageFormat::Tiff => "tiff",
            ImageFormat::Bmp => "bmp",
            _ => "ico",
        },
        orientation: orientation.map(|orientation| i32::from(orientation.to_exif())),
        taken_micros: exif.as_ref().and_then(taken_micros),
        camera: exif.as_ref().and_then(camera),
    })
}

/// Reads the width and height from the frame header.
fn jpeg_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let is_frame = |marker: u8| matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc);
    let (_, frame) = container::jpeg_segments(bytes).find(|(marker, _)| is_frame(*marker))?;
    let [_, high, low, right, left, ..] = *frame else { return None };
    let (height, width) = (u16::from_be_bytes([high, low]), u16::from_be_bytes([right, left]));
    (width > 0 && height > 0).then_some((u32::from(width), u32::from(height)))
}

/// Reads what it can of the EXIF block: fields beside a broken one are kept.
fn read_exif(bytes: &[u8]) -> Option<Exif> {
    let mut reader = exif::Reader::new();
    reader.continue_on_error(true);
    let read = reader.read_from_container(&mut Cursor::new(bytes));
    read.or_else(|error| error.distill_partial_result(|_| {})).ok()
}

/// Returns `DateTimeOriginal` in microseconds since 1970.
fn taken_micros(exif: &Exif) -> Option<i64> {
    let field = exif.get_field(Tag::DateTimeOriginal, In::PRIMARY)?;
    let Value::Ascii(parts) = &field.value else { return None };
    let at = exif::DateTime::from_ascii(parts.first()?).ok()?;
    let date = NaiveDate::from_ymd_opt(i32::from(at.year), u32::from(at.month), u32::from(at.day))?;
    let time = date.and_hms_opt(u32::from(at.hour), u32::from(at.minute), u32::from(at.second))?;
    Some(time.and_utc().timestamp_micros())
}

/// Returns the maker and the model, without the maker if the model begins with it.
fn camera(exif: &Exif) -> Option<String> {
    let text = |tag: Tag| {
        let Value::Ascii(parts) = &exif.get_field(tag, In::PRIMARY)?.value else { return None };
        let text = String::from_utf8_lossy(parts.first()?).trim_matches(['\0', ' ']).to_owned();
        (!text.is_empty()).then_some(text)
    };
    match (text(Tag::Make), text(Tag::Model)) {
        (Some(make), Some(model)) if !model.to_lowercase().starts_with(&make.to_lowercase()) => {
            Some(format!("{make} {model}"))
        }
        (make, model) => model.or(make),
    }
}

#[cfg(test)]
mod tests;
