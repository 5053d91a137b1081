//! Loaded models, and the tensors that are their inputs and outputs.

use std::path::PathBuf;

use cenote_base::{Error, Result};
use ort::session::SessionInputValue;
use ort::value::{DynValue, Tensor as OrtTensor};

use super::pool::BoundedPool;
use super::runtime::{CPU, OpenSession, Runtime, SessionOptions, failed};
use crate::files::manifest::Manifest;

/// The elements of a tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// 32-bit floating point.
    F32(Vec<f32>),
    /// 64-bit signed integers.
    I64(Vec<i64>),
}

/// A dense tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// The size of each dimension.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: TensorData,
}

impl Tensor {
    /// Makes a tensor of 32-bit floating point numbers.
    ///
    /// # Errors
    /// `InvalidInput` when `data` does not have exactly the elements of `shape`.
    pub fn f32(shape: Vec<usize>, data: Vec<f32>) -> Result<Self> {
        check(&shape, data.len())?;
        Ok(Self { shape, data: TensorData::F32(data) })
    }

    /// Makes a tensor of 64-bit signed integers.
    ///
    /// # Errors
    /// `InvalidInput` when `data` does not have exactly the elements of `shape`.
    pub fn i64(shape: Vec<usize>, data: Vec<i64>) -> Result<Self> {
        check(&shape, data.len())?;
        Ok(Self { shape, data: TensorData::I64(data) })
    }

    /// Returns the elements as floating point numbers.
    ///
    /// # Errors
    /// `InvalidInput` when they are integers.
    pub fn as_f32(&self) -> Result<&[f32]> {
        match &self.data {
            TensorData::F32(data) => Ok(data),
            TensorData::I64(_) => Err(Error::invalid_input("the tensor holds i64, f32 was asked for")),
        }
    }

    /// Returns the elements as integers.
    ///
    /// # Errors
    /// `InvalidInput` when they are floating point numbers.
    pub fn as_i64(&self) -> Result<&[i64]> {
        match &self.data {
            TensorData::I64(data) => Ok(data),
            TensorData::F32(_) => Err(Error::invalid_input("the tensor holds f32, i64 was asked for")),
        }
    }

    fn into_ort(self) -> ort::Result<SessionInputValue<'static>> {
        Ok(match self.data {
            TensorData::F32(data) => OrtTensor::from_array((self.shape, data))?.into(),
            TensorData::I64(data) => OrtTensor::from_array((self.shape, data))?.into(),
        })
    }

    fn from_ort(value: &DynValue) -> ort::Result<Self> {
        let sizes = |shape: &[i64]| shape.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
        if let Ok((shape, data)) = value.try_extract_tensor::<i64>() {
            return Ok(Self { shape: sizes(shape), data: TensorData::I64(data.to_vec()) });
        }
        let (shape, data) = value.try_extract_tensor::<f32>()?;
        Ok(Self { shape: sizes(shape), data: TensorData::F32(data.to_vec()) })
    }
}

fn check(shape: &[usize], elements: usize) -> Result<()> {
    if shape.iter().product::<usize>() == elements {
        return Ok(());
    }
    Err(Error::invalid_input(format!("shape {shape:?} does not hold {elements} elements")))
}

/// A loaded model, which threads may share: each run borrows one of a bounded number of sessions.
pub struct Model {
    manifest: Manifest,
    hash: String,
    provider: &'static str,
    sessions: BoundedPool<OpenSession>,
}

impl Model {
    /// Loads the model file at `path`. It opens the first session, so that a file that cannot run fails here.
    pub(crate) fn load(
        manifest: Manifest,
        hash: String,
        path: PathBuf,
        runtime: Runtime,
        options: SessionOptions,
        sessions_max: usize,
    ) -> Result<Self> {
        let sessions = BoundedPool::new(sessions_max, move || runtime.open_session(&path, options))?;
        let provider = sessions.take()?.provider;
        tracing::info!(model = manifest.name, provider, "loaded a model");
        Ok(Self { manifest, hash, provider, sessions })
    }

    /// Returns the description of the model.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the hash that identifies the model's output: equal hashes give equal values.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Returns the number of open sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Returns ONNX Runtime's name of the execution provider that runs the model.
    pub fn provider(&self) -> &'static str {
        self.provider
    }

    /// Returns whether a GPU runs the model; then a run should have many rows.
    pub fn is_on_gpu(&self) -> bool {
        self.provider != CPU
    }

    /// Runs the model on `inputs` and returns the outputs named in `outputs`, in their order. Waits while all sessions
    /// are in use.
    ///
    /// # Errors
    /// `InvalidInput` when an input is missing or has another type or shape than the model takes, `NotFound` for an
    /// output that the model does not have.
    pub fn run<'a>(
        &self,
        inputs: impl IntoIterator<Item = (&'a str, Tensor)>,
        outputs: &[&str],
    ) -> Result<Vec<Tensor>> {
        let doing = || format!("run model `{}`", self.manifest.name);
        let values = inputs
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.into_ort()?)))
            .collect::<ort::Result<Vec<_>>>()
            .map_err(|error| failed(doing(), error))?;
        let mut session = self.sessions.take()?;
        let produced = session
            .session
            .run(values)
            .map_err(|error| Error::invalid_input(format!("{}: {error}", doing())).with_source(error))?;
        outputs
            .iter()
            .map(|name| match produced.get(name) {
                Some(value) => Tensor::from_ort(value).map_err(|error| failed(format!("read output `{name}`"), error)),
                None => Err(Error::not_found(format!("{}: it has no output `{name}`", doing()))),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_shape_must_hold_the_elements() {
        let tensor = Tensor::f32(vec![2, 2], vec![0.0; 4]).unwrap();
        assert_eq!(tensor.as_f32().unwrap().len(), 4);
        assert!(tensor.as_i64().unwrap_err().message().contains("holds f32"));
        let error = Tensor::i64(vec![2, 3], vec![0; 4]).unwrap_err();
        assert_eq!(error.message(), "shape [2, 3] does not hold 4 elements");
    }
}
