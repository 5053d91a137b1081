//! Arrays of numbers for training, shared without a copy by DLPack and by numpy's array interface.

#![expect(unsafe_code, reason = "DLPack hands over pointers; each block says why they stay valid")]

use std::any::Any;
use std::ffi::{CStr, c_void};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::DataType;
use cenote_runtime::arrow;
use cenote_runtime::loader::{self, TensorValues};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::fault;
use crate::interchange::pickle::{self, Reduced};

const DLPACK: &CStr = c"dltensor";
const CPU: i32 = 1;

/// The owner of the numbers' memory, which is only held and never read.
type Memory = Arc<dyn Any + Send + Sync>;

/// The pickled parts of a tensor: its numbers, its shape, their type, and which rows have a value.
type TensorParts<'py> = (Bound<'py, PyBytes>, Vec<i64>, String, Option<Vec<bool>>);

/// Numbers in one piece of memory, in row-major order. Consumers share the memory, and so see each other's changes.
#[pyclass(frozen, module = "cenote._native", name = "Tensor")]
pub(crate) struct PyTensor {
    memory: Memory,
    /// The address of the first number.
    data: usize,
    shape: Vec<i64>,
    kind: NumberType,
    valid: Option<Vec<bool>>,
    read_only: bool,
}

/// A type of numbers: numpy's letter, DLPack's code, and the bits of a number.
#[derive(Clone, Copy)]
struct NumberType {
    letter: char,
    code: u8,
    bits: u8,
}

impl NumberType {
    const BYTE: Self = Self::new('u', 1, 8);
    const FLOAT: Self = Self::new('f', 2, 32);

    const fn new(letter: char, code: u8, bits: u8) -> Self {
        Self { letter, code, bits }
    }

    /// Returns the type in numpy's notation.
    fn name(&self) -> String {
        let order = if self.bits == 8 { '|' } else { '<' };
        format!("{order}{}{}", self.letter, self.bytes())
    }

    fn bytes(&self) -> usize {
        usize::from(self.bits / 8)
    }

    /// Returns the bytes that stand for a null: NaN, or 0.
    fn nothing(&self) -> &'static [u8] {
        match (self.letter, self.bits) {
            ('f', 16) => &[0x00, 0x7e],
            ('f', 32) => &[0x00, 0x00, 0xc0, 0x7f],
            ('f', _) => &[0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xf8, 0x7f],
            (_, bits) => &[0; 8][..usize::from(bits / 8)],
        }
    }
}

/// The Arrow types that become tensors, and their numbers.
static NUMBERS: [(DataType, NumberType); 11] = [
    (DataType::Int8, NumberType::new('i', 0, 8)),
    (DataType::Int16, NumberType::new('i', 0, 16)),
    (DataType::Int32, NumberType::new('i', 0, 32)),
    (DataType::Int64, NumberType::new('i', 0, 64)),
    (DataType::UInt8, NumberType::BYTE),
    (DataType::UInt16, NumberType::new('u', 1, 16)),
    (DataType::UInt32, NumberType::new('u', 1, 32)),
    (DataType::UInt64, NumberType::new('u', 1, 64)),
    (DataType::Float16, NumberType::new('f', 2, 16)),
    (DataType::Float32, NumberType::FLOAT),
    (DataType::Float64, NumberType::new('f', 2, 64)),
];

/// Returns the type of numbers that has `name` in numpy's notation.
fn named(name: &str) -> Option<NumberType> {
    NUMBERS.iter().map(|(_, number)| *number).find(|number| number.name() == name)
}

/// Returns the type of the numbers of a column of `data_type`.
fn number_type(data_type: &DataType) -> Option<NumberType> {
    NUMBERS.iter().find(|(known, _)| known == data_type).map(|(_, number)| *number)
}

impl PyTensor {
    pub(crate) fn new(tensor: loader::ColumnTensor) -> Self {
        let memory = tensor.data;
        let (data, kind) = match memory.as_ref() {
            TensorValues::Byte(numbers) => (numbers.as_ptr() as usize, NumberType::BYTE),
            TensorValues::Float(numbers) => (numbers.as_ptr() as usize, NumberType::FLOAT),
        };
        Self {
            memory,
            data,
            shape: tensor.shape.iter().map(|side| *side as i64).collect(),
            kind,
            valid: tensor.valid,
            read_only: false,
        }
    }

    /// Makes a tensor of `bytes`, which are aligned for its numbers.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown type, or a number of bytes that does not fit the shape.
    pub(crate) fn of_bytes(bytes: Buffer, shape: Vec<i64>, dtype: &str, valid: Option<Vec<bool>>) -> PyResult<Self> {
        let kind = named(dtype);
        let numbers = shape.iter().try_fold(1usize, |all, side| all.checked_mul(usize::try_from(*side).ok()?));
        match (kind, numbers) {
            (Some(kind), Some(numbers)) if numbers.checked_mul(kind.bytes()) == Some(bytes.len()) => {
                let data = bytes.as_ptr() as usize;
                Ok(Self { memory: Arc::new(bytes), data, shape, kind, valid, read_only: false })
            }
            _ => Err(fault::invalid(format!("{} bytes are not {dtype} of shape {shape:?}", bytes.len()))),
        }
    }

    /// Returns the bytes of all numbers.
    fn bytes(&self) -> &[u8] {
        let numbers = self.shape.iter().product::<i64>() as usize;
        // SAFETY: `data` points to `numbers` numbers of this kind, which `memory` keeps as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.data as *const u8, numbers * self.kind.bytes()) }
    }

    /// Returns the memory of a tensor made by [`of_bytes`](Self::of_bytes).
    pub(crate) fn buffer(&self) -> Option<Buffer> {
        self.memory.downcast_ref().cloned()
    }

    /// Makes a tensor of `array`, if its type is a number or a vector of numbers. If it is `nullable`, `valid` tells
    /// which rows have all their numbers; a missing float is NaN, and a missing integer 0.
    pub(crate) fn of_column(array: &ArrayRef, nullable: bool) -> Option<Self> {
        let (values, shape, nullable) = match array.data_type() {
            DataType::FixedSizeList(item, width) => {
                let list = array.as_fixed_size_list();
                let start = list.value_offset(0) as usize;
                let values = list.values().slice(start, list.len() * *width as usize);
                (values, vec![array.len() as i64, i64::from(*width)], nullable || item.is_nullable())
            }
            _ => (Arc::clone(array), vec![array.len() as i64], nullable),
        };
        let kind = number_type(values.data_type())?;
        let full = array.null_count() == 0 && values.null_count() == 0;
        let width = values.len() / array.len().max(1);
        let is_null = |at: usize| values.is_null(at) || array.is_null(at / width);
        let valid = |row: usize| full || !(row * width..(row + 1) * width).any(is_null);
        let valid = nullable.then(|| (0..array.len()).map(valid).collect::<Vec<bool>>());
        let data = values.to_data();
        let first = data.buffers()[0].as_ptr() as usize + data.offset() * kind.bytes();
        let whole = Self { memory: Arc::new(Arc::clone(&values)), data: first, shape, kind, valid, read_only: true };
        if full {
            return Some(whole);
        }
        let mut filled = MutableBuffer::new(values.len() * kind.bytes());
        filled.extend_from_slice(whole.bytes());
        for (at, number) in filled.chunks_exact_mut(kind.bytes()).enumerate() {
            if is_null(at) {
                number.copy_from_slice(kind.nothing());
            }
        }
        let filled = Buffer::from(filled);
        Some(Self { data: filled.as_ptr() as usize, memory: Arc::new(filled), ..whole })
    }
}

#[pymethods]
impl PyTensor {
    #[getter]
    fn shape(&self) -> Vec<i64> {
        self.shape.clone()
    }

    /// Returns the type of the numbers in numpy's notation, such as `<f4`.
    #[getter]
    fn dtype(&self) -> String {
        self.kind.name()
    }

    /// Returns which rows have a value; `None` if all must have one.
    #[getter]
    fn valid(&self) -> Option<Vec<bool>> {
        self.valid.clone()
    }

    fn __len__(&self) -> usize {
        self.shape.first().map_or(0, |rows| *rows as usize)
    }

    /// Returns numpy's array interface, version 3.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let about = PyDict::new(py);
        about.set_item("version", 3)?;
        about.set_item("shape", PyTuple::new(py, &self.shape)?)?;
        about.set_item("typestr", self.dtype())?;
        about.set_item("data", (self.data, self.read_only))?;
        Ok(about)
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Reduced<'py, TensorParts<'py>>> {
        let parts = (PyBytes::new(py, self.bytes()), self.shape(), self.dtype(), self.valid());
        Ok((pickle::maker(py, "unpickle_tensor")?, parts))
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        (CPU, 0)
    }

    /// Returns the numbers as a DLPack capsule.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<Bound<'py, PyAny>>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        drop((stream, max_version));
        if dl_device.is_some_and(|device| device != (CPU, 0)) {
            return Err(PyBufferError::new_err("the numbers are in the CPU's memory: move them after the exchange"));
        }
        if copy == Some(true) {
            return Err(PyBufferError::new_err("the exchange shares memory: copy afterwards"));
        }
        let mut context = Box::new(DlpackContext { shape: self.shape.clone(), _memory: Arc::clone(&self.memory) });
        let managed = Box::new(ManagedTensor {
            data: self.data as *mut c_void,
            device_type: CPU,
            device_id: 0,
            dimensions: self.shape.len() as i32,
            code: self.kind.code,
            bits: self.kind.bits,
            lanes: 1,
            shape: context.shape.as_mut_ptr(),
            strides: std::ptr::null_mut(),
            byte_offset: 0,
            context: Box::into_raw(context).cast(),
            deleter: Some(delete),
        });
        let pointer = Box::into_raw(managed);
        // SAFETY: `pointer` is a DLPack tensor that lives until its deleter is called, by the consumer that renames the
        // capsule or else by `release`. The capsule's name is static.
        unsafe {
            let capsule = ffi::PyCapsule_New(pointer.cast(), DLPACK.as_ptr(), Some(release));
            if capsule.is_null() {
                delete(pointer);
                return Err(PyErr::fetch(py));
            }
            Ok(Bound::from_owned_ptr(py, capsule))
        }
    }
}

/// Makes a tensor again from its pickled parts.
#[pyfunction]
pub(crate) fn unpickle_tensor(
    bytes: &[u8],
    shape: Vec<i64>,
    dtype: &str,
    valid: Option<Vec<bool>>,
) -> PyResult<PyTensor> {
    // Aligned for every type of number, and not Python's own memory: the owner of a tensor may change it.
    let mut memory = MutableBuffer::new(bytes.len());
    memory.extend_from_slice(bytes);
    PyTensor::of_bytes(Buffer::from(memory), shape, dtype, valid)
}

/// The owner of the memory of a tensor that a consumer has taken over.
struct DlpackContext {
    shape: Vec<i64>,
    _memory: Memory,
}

/// `DLManagedTensor` of <https://dmlc.github.io/dlpack/latest/c_api.html>.
#[repr(C)]
struct ManagedTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    dimensions: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedTensor)>,
}

unsafe extern "C" fn delete(tensor: *mut ManagedTensor) {
    // SAFETY: both boxes were made in `__dlpack__`, and the deleter is called once.
    unsafe {
        let tensor = Box::from_raw(tensor);
        drop(Box::from_raw(tensor.context.cast::<DlpackContext>()));
    }
}

/// Frees a tensor that no consumer took over.
unsafe extern "C" fn release(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this with the capsule that it frees; a capsule of the first name was not taken over.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, DLPACK.as_ptr()) == 1 {
            let tensor = ffi::PyCapsule_GetPointer(capsule, DLPACK.as_ptr()).cast::<ManagedTensor>();
            delete(tensor);
        }
    }
}
