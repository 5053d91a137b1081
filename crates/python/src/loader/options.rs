//! The options of a loader, read from the Python object that has a field for each.

use cenote_runtime::loader::{Buckets, EpochTail, LoaderOptions, OnError, Transform};
use cenote_runtime::{ByteSize, Error};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict};

use crate::fault::{self, raise};

/// The name of a count in messages.
const COUNT: &str = "a whole number, 0 or more";
/// The name of a picture's side in messages.
const PIXELS: &str = "a whole number of pixels";

/// Reads the options of a loader. A field that is `None` has its default.
///
/// # Errors
/// `InvalidInput` for a value of another type than its option; the message names the option, the value and the type.
pub(super) fn read(options: &Bound<'_, PyAny>) -> PyResult<LoaderOptions> {
    let field = |name: &str| Ok::<_, PyErr>(OptionValue { name: name.to_owned(), value: options.getattr(name)? });
    let defaults = LoaderOptions::default();
    Ok(LoaderOptions {
        columns: field("columns")?.get("a list of names")?,
        batch_rows: field("batch_size")?.whole(COUNT)?.unwrap_or(defaults.batch_rows),
        shuffle: field("seed")?.whole(COUNT)?,
        window: field("window")?.size()?,
        buckets: match options.getattr("buckets")? {
            none if none.is_none() => None,
            given => Some(buckets(&given)?),
        },
        rank: field("rank")?.whole(COUNT)?.unwrap_or(defaults.rank),
        world_size: field("world_size")?.whole(COUNT)?.unwrap_or(defaults.world_size),
        worker: field("worker")?.whole(COUNT)?.unwrap_or(defaults.worker),
        workers: field("workers")?.whole(COUNT)?.unwrap_or(defaults.workers),
        tail: match field("last")?.get::<String>("a text such as short")? {
            Some(text) => text.parse::<EpochTail>().map_err(raise)?,
            None => defaults.tail,
        },
        transforms: field("transforms")?
            .get::<Vec<(String, Vec<Bound<'_, PyAny>>)>>("a list of columns, each with its transforms")?
            .unwrap_or_default()
            .into_iter()
            .map(|(column, steps)| Ok((column, steps.iter().map(transform).collect::<PyResult<_>>()?)))
            .collect::<PyResult<_>>()?,
        epoch_rows: field("epoch_rows")?.whole(COUNT)?,
        on_error: match field("on_error")?.get::<String>("a text such as raise")?.as_deref() {
            None => defaults.on_error,
            Some("raise") => OnError::Raise,
            Some("zero") => OnError::Zero,
            Some(other) => return Err(fault::invalid(format!("on_error is raise or zero, found {other}"))),
        },
        prefetch_bytes_max: field("prefetch")?.size()?.unwrap_or(defaults.prefetch_bytes_max),
        threads: field("threads")?.whole(COUNT)?.unwrap_or(defaults.threads),
        follow: field("follow")?.get("true or false")?.unwrap_or(defaults.follow),
    })
}

/// Reads a `cenote.Buckets`.
fn buckets(given: &Bound<'_, PyAny>) -> PyResult<Buckets> {
    let field = |name: &str| {
        let value = given.getattr(name).map_err(|error| wrong("buckets", "cenote.Buckets", given, Some(error)))?;
        Ok::<_, PyErr>(OptionValue { name: format!("buckets: {name}"), value })
    };
    Ok(Buckets {
        column: field("column")?.required(OptionValue::get, "the name of a column")?,
        window_rows: field("window")?.required(OptionValue::whole, COUNT)?,
        run_rows: field("run")?.required(OptionValue::whole, COUNT)?,
    })
}

/// Reads a `cenote.op.Transform`: its name, and a dictionary of options.
fn transform(step: &Bound<'_, PyAny>) -> PyResult<Transform> {
    let foreign = |error: PyErr| wrong("a transform", "one of those in cenote.op", step, Some(error));
    let name = step.getattr("name").and_then(|name| name.extract::<String>()).map_err(foreign)?;
    let options = step.getattr("options").map_err(foreign)?;
    let options = options.cast::<PyDict>().map_err(|error| foreign(error.into()))?;
    let field = |option: &str| {
        let value = options.get_item(option)?.unwrap_or_else(|| step.py().None().into_bound(step.py()));
        Ok::<_, PyErr>(OptionValue { name: format!("{name}: {option}"), value })
    };
    let side = |option: &str| field(option)?.required(OptionValue::whole, PIXELS);
    let range = |option: &str| {
        let [from, to]: [f64; 2] = field(option)?.required(OptionValue::get, "two numbers, from and to")?;
        Ok::<_, PyErr>((from, to))
    };
    let colours = |option: &str| field(option)?.required(OptionValue::get, "three numbers, for red, green and blue");
    Ok(match name.as_str() {
        "decode_image" => Transform::DecodeImage,
        "decode_video" => Transform::DecodeVideo {
            frames: field("frames")?.required(OptionValue::whole, COUNT)?,
            every_ms: field("every_ms")?.whole("a whole number of milliseconds")?,
            random: field("random")?.required(OptionValue::get, "true or false")?,
        },
        "resize" => Transform::Resize { height: side("height")?, width: field("width")?.whole(PIXELS)? },
        "center_crop" => Transform::CenterCrop { height: side("height")?, width: side("width")? },
        "random_resized_crop" => Transform::RandomResizedCrop {
            height: side("height")?,
            width: side("width")?,
            scale: range("scale")?,
            ratio: range("ratio")?,
        },
        "random_horizontal_flip" => Transform::RandomHorizontalFlip {
            probability: field("probability")?.required(OptionValue::get, "a number from 0 to 1")?,
        },
        "normalize" => Transform::Normalize { mean: colours("mean")?, std: colours("std")? },
        "pack" => Transform::Pack {
            length: field("length")?.required(OptionValue::whole, "a whole number of 32 bits")?,
            pad: field("pad")?.required(OptionValue::whole, "a whole number of 64 bits")?,
        },
        _ => return Err(wrong("a transform", "one of those in cenote.op", step, None)),
    })
}

/// An option as Python gives it: its name in messages, and its value.
struct OptionValue<'py> {
    name: String,
    value: Bound<'py, PyAny>,
}

impl<'py> OptionValue<'py> {
    /// Returns the value as a `T`, which messages call `right`; `None` for Python's `None`.
    fn get<T: FromPyObjectOwned<'py>>(&self, right: &str) -> PyResult<Option<T>> {
        if self.value.is_none() {
            return Ok(None);
        }
        let value = self.value.extract::<T>();
        value.map(Some).map_err(|error| wrong(&self.name, right, &self.value, Some(error.into())))
    }

    /// Returns a whole number as [`get`](Self::get) does. `True` and `False`, which Python counts as such, are refused.
    fn whole<T: FromPyObjectOwned<'py>>(&self, right: &str) -> PyResult<Option<T>> {
        match self.value.is_instance_of::<PyBool>() {
            true => Err(wrong(&self.name, right, &self.value, None)),
            false => self.get(right),
        }
    }

    /// Returns what `read` finds, and refuses `None`.
    fn required<T>(&self, read: impl Fn(&Self, &str) -> PyResult<Option<T>>, right: &str) -> PyResult<T> {
        read(self, right)?.ok_or_else(|| wrong(&self.name, right, &self.value, None))
    }

    /// Returns a number of bytes, or a text such as `256 MiB`.
    fn size(&self) -> PyResult<Option<ByteSize>> {
        match self.value.extract::<String>() {
            Ok(text) => text.parse().map(Some).map_err(|error: Error| raise(error.context(self.name.as_str()))),
            Err(_) => Ok(self.whole("a size such as 256 MiB")?.map(ByteSize)),
        }
    }
}

/// Makes the error for a `value` that is not what `right` says.
fn wrong(name: &str, right: &str, value: &Bound<'_, PyAny>, cause: Option<PyErr>) -> PyErr {
    let found = value.repr().map_or_else(|_| "a value without a text".to_owned(), |text| text.to_string());
    let error = Error::invalid_input(format!("{name} is {right}, found {found}"));
    raise(match cause {
        Some(cause) => error.with_source(cause),
        None => error,
    })
}
