//! Operators as SQL functions: `embed_text('red car')`.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::array::{ArrayRef, StructArray};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use cenote_base::Error;
use cenote_operator::{BoundOperator, OperatorSpec, PortType, Registry, Rows, Shape, Worker};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::fault::external;

/// Rows that an operator sees at once: images decoded from them lie in memory together.
const ROWS_MAX: usize = 64;

/// The function of each row-wise operator of `registry`, under the operator's name.
pub(crate) fn functions(registry: &Arc<Registry>) -> Vec<ScalarUDF> {
    registry
        .definitions()
        .filter(|definition| definition.shape != Shape::OneToMany && !definition.inputs.is_empty())
        .map(|definition| {
            ScalarUDF::new_from_impl(OperatorFunction {
                name: definition.name,
                ports: definition.inputs.iter().map(|port| port.port_type).collect(),
                registry: Arc::clone(registry),
                bound: OnceLock::new(),
                idle: Mutex::default(),
                // Equal input gives equal output: a call over literals is computed once, before the query runs.
                signature: Signature::user_defined(Volatility::Immutable),
            })
        })
        .collect()
}

/// Bound when first planned; models load when it first runs. A row that the operator cannot process is null.
struct OperatorFunction {
    name: &'static str,
    ports: Vec<PortType>,
    registry: Arc<Registry>,
    bound: OnceLock<Arc<BoundOperator>>,
    /// Workers that no thread is using.
    idle: Mutex<Vec<Box<dyn Worker>>>,
    signature: Signature,
}

impl fmt::Debug for OperatorFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorFunction").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PartialEq for OperatorFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.registry, &other.registry)
    }
}

impl Eq for OperatorFunction {}

impl Hash for OperatorFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl OperatorFunction {
    fn bound(&self) -> Result<&Arc<BoundOperator>> {
        if let Some(bound) = self.bound.get() {
            return Ok(bound);
        }
        let bound = self.registry.bind(&OperatorSpec::new(self.name)).map_err(external)?;
        Ok(self.bound.get_or_init(|| Arc::new(bound)))
    }

    fn output_type(&self) -> Result<DataType> {
        Ok(match self.bound()?.outputs() {
            [single] => single.data_type().clone(),
            several => DataType::Struct(Fields::from(several.to_vec())),
        })
    }

    fn process(&self, columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let taken = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut worker = match taken {
            Some(worker) => worker,
            None => self.bound()?.worker().map_err(external)?,
        };
        let mut pieces: Vec<Vec<ArrayRef>> = vec![Vec::new(); self.bound()?.outputs().len()];
        let mut start = 0;
        // An empty input is processed too: it gives empty columns of the right types.
        while start < rows || start == 0 {
            let length = ROWS_MAX.min(rows - start);
            let slices: Vec<ArrayRef> = columns.iter().map(|column| column.slice(start, length)).collect();
            let output = worker.process(&Rows::new(&slices)).map_err(external)?;
            pieces.iter_mut().zip(output.columns).for_each(|(pieces, column)| pieces.push(column));
            start += length.max(1);
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        let mut outputs = Vec::with_capacity(pieces.len());
        for pieces in &pieces {
            let pieces: Vec<_> = pieces.iter().map(AsRef::as_ref).collect();
            outputs.push(concat(&pieces)?);
        }
        if outputs.len() == 1 {
            return Ok(outputs.remove(0));
        }
        let fields = Fields::from(self.bound()?.outputs().to_vec());
        Ok(Arc::new(StructArray::try_new(fields, outputs, None)?))
    }
}

impl ScalarUDFImpl for OperatorFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        self.output_type()
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(self.name, self.output_type()?, true)))
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let wanted = || self.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let wrong = |what: String| Err(external(Error::invalid_input(format!("{}: {what}", self.name))));
        if arg_types.len() != self.ports.len() {
            return wrong(format!("it takes {} ({}), found {}", self.ports.len(), wanted(), arg_types.len()));
        }
        let mut types = Vec::with_capacity(arg_types.len());
        for (port, given) in self.ports.iter().zip(arg_types) {
            let plain = match given {
                DataType::Utf8View => DataType::Utf8,
                DataType::BinaryView => DataType::LargeBinary,
                DataType::Null => match port {
                    PortType::Text => DataType::Utf8,
                    PortType::Bytes => DataType::LargeBinary,
                    PortType::Number => DataType::Float64,
                    PortType::Vector => return wrong("a vector cannot be a bare NULL".to_owned()),
                },
                other => other.clone(),
            };
            if !port.accepts(&plain) {
                return wrong(format!("it takes {}, found {given}", wanted()));
            }
            types.push(port.arrives_as(&plain));
        }
        Ok(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let columns = args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<Vec<_>>>()?;
        let output = self.process(&columns, rows)?;
        match constant {
            true => ScalarValue::try_from_array(&output, 0).map(ColumnarValue::Scalar),
            false => Ok(ColumnarValue::Array(output)),
        }
    }
}
