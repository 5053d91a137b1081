//! Definitions of operators: ports, parameters and shape.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::DataType;
use cenote_base::{Error, Result, did_you_mean};
use serde_json::Value;

use crate::operator::Operator;
use crate::spec::Params;

/// The relation of output rows to input rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One output row for each input row, in order.
    RowWise,
    /// Row-wise with one number as output: a score for which the recipe sets a threshold, so that moving the threshold
    /// computes nothing.
    Filter,
    /// Zero or more output rows for each input row: a child table keyed by the parent's key and an ordinal.
    OneToMany,
}

/// The type of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortType {
    /// Bytes, arriving as `LargeBinary` (media and blobs).
    Bytes,
    /// Text, arriving as `Utf8`.
    Text,
    /// A vector, arriving as `FixedSizeList<Float32>`.
    Vector,
    /// A number, arriving as `Float64`.
    Number,
}

impl PortType {
    /// Returns whether a column of `data_type` can be read through this port.
    pub fn accepts(self, data_type: &DataType) -> bool {
        match self {
            Self::Bytes => matches!(data_type, DataType::Binary | DataType::LargeBinary),
            Self::Text => matches!(data_type, DataType::Utf8 | DataType::LargeUtf8),
            Self::Vector => {
                matches!(data_type, DataType::FixedSizeList(item, _) if item.data_type() == &DataType::Float32)
            }
            Self::Number => data_type.is_numeric(),
        }
    }

    /// Returns the type that a worker sees for a column of `data_type` that this port accepts.
    pub fn arrives_as(self, data_type: &DataType) -> DataType {
        match self {
            Self::Bytes => DataType::LargeBinary,
            Self::Text => DataType::Utf8,
            Self::Vector => data_type.clone(),
            Self::Number => DataType::Float64,
        }
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Text => "text",
            Self::Vector => "vector",
            Self::Number => "number",
        })
    }
}

/// A named input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The name that a recipe binds a column to.
    pub name: &'static str,
    /// The type of the columns that it accepts.
    pub port_type: PortType,
}

impl Port {
    /// Creates the input `name` of type `port_type`.
    pub const fn new(name: &'static str, port_type: PortType) -> Self {
        Self { name, port_type }
    }
}

/// The type of a parameter's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamType {
    /// A whole number ≥ 0.
    Unsigned,
    /// A number.
    Number,
    /// A text.
    Text,
    /// True or false.
    Boolean,
}

impl ParamType {
    fn accepts(self, value: &Value) -> bool {
        match self {
            Self::Unsigned => value.is_u64(),
            Self::Number => value.is_number(),
            Self::Text => value.is_string(),
            Self::Boolean => value.is_boolean(),
        }
    }
}

impl fmt::Display for ParamType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsigned => "a whole number ≥ 0",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Boolean => "true or false",
        })
    }
}

/// A parameter with its default.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// The name in a recipe.
    pub name: &'static str,
    /// The type of its value.
    pub param_type: ParamType,
    /// The value if the recipe sets none.
    pub default: Value,
    /// One sentence on what it does, with the unit.
    pub summary: &'static str,
}

type Bind = Arc<dyn Fn(&Params) -> Result<Box<dyn Operator>> + Send + Sync>;

/// A registered operator: its name, version, ports and parameters, and the function that binds it.
#[derive(Clone)]
pub struct Definition {
    /// `verb_noun`, unique in a registry.
    pub name: &'static str,
    /// The version, raised whenever the same input may give another output: values derived by an older version are
    /// derived anew.
    pub version: u32,
    /// One line for `cenote operators`.
    pub summary: &'static str,
    /// The relation of output rows to input rows.
    pub shape: Shape,
    /// The inputs, in the order in which a worker sees them.
    pub inputs: Vec<Port>,
    /// The parameters, each with a default.
    pub params: Vec<Param>,
    bind: Bind,
}

impl Definition {
    /// Creates a row-wise operator without inputs or parameters; add them with [`input`](Self::input) and
    /// [`param`](Self::param). `bind` receives parameters that passed [`check`](Self::check).
    pub fn new(
        name: &'static str,
        version: u32,
        summary: &'static str,
        bind: impl Fn(&Params) -> Result<Box<dyn Operator>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            version,
            summary,
            shape: Shape::RowWise,
            inputs: Vec::new(),
            params: Vec::new(),
            bind: Arc::new(bind),
        }
    }

    /// Sets the shape.
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// Adds an input.
    pub fn input(mut self, port: Port) -> Self {
        self.inputs.push(port);
        self
    }

    /// Adds a parameter.
    pub fn param(
        mut self,
        name: &'static str,
        param_type: ParamType,
        default: impl Into<Value>,
        summary: &'static str,
    ) -> Self {
        self.params.push(Param { name, param_type, default: default.into(), summary });
        self
    }

    /// Checks the parameters `given`, and returns them with every default filled in.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not declared (with the nearest declared one) or a value of the wrong type.
    pub fn check(&self, given: &Params) -> Result<Params> {
        for (name, value) in &given.0 {
            let Some(param) = self.params.iter().find(|param| param.name == name) else {
                let hint = did_you_mean(name, self.params.iter().map(|param| param.name));
                return Err(Error::invalid_input(format!("operator `{}` has no parameter `{name}`{hint}", self.name)));
            };
            if !param.param_type.accepts(value) {
                return Err(Error::invalid_input(format!(
                    "parameter `{name}` of operator `{}` must be {}, found {value}",
                    self.name, param.param_type
                )));
            }
        }
        let mut params = given.clone();
        for param in &self.params {
            params.0.entry(param.name.to_owned()).or_insert_with(|| param.default.clone());
        }
        Ok(params)
    }

    pub(crate) fn bind(&self, params: &Params) -> Result<Box<dyn Operator>> {
        (self.bind)(params).map_err(|error| error.context(format!("operator `{}`", self.name)))
    }
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Definition").field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}
