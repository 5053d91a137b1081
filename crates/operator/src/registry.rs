//! Operators by name.

use std::collections::BTreeMap;

use cenote_base::{Error, Result, did_you_mean};

use crate::bound::BoundOperator;
use crate::definition::Definition;
use crate::spec::OperatorSpec;

/// The operators that a process knows.
#[derive(Debug, Default)]
pub struct Registry {
    definitions: BTreeMap<&'static str, Definition>,
}

impl Registry {
    /// Adds `definition`, in place of any other of the same name.
    pub fn register(&mut self, definition: Definition) {
        self.definitions.insert(definition.name, definition);
    }

    /// Returns all definitions, ordered by name.
    pub fn definitions(&self) -> impl Iterator<Item = &Definition> {
        self.definitions.values()
    }

    /// Returns the definition called `name`.
    ///
    /// # Errors
    /// `NotFound`, with the nearest registered name.
    pub fn definition(&self, name: &str) -> Result<&Definition> {
        self.definitions.get(name).ok_or_else(|| {
            let hint = did_you_mean(name, self.definitions.keys().copied());
            Error::not_found(format!("no operator `{name}`{hint}; `cenote operators` lists them"))
        })
    }

    /// Checks `spec` and binds it.
    ///
    /// # Errors
    /// `NotFound` for an unknown name, `InvalidInput` for wrong parameters, and the errors of what binding needs, such
    /// as a missing model file or ONNX Runtime library.
    pub fn bind(&self, spec: &OperatorSpec) -> Result<BoundOperator> {
        let definition = self.definition(&spec.name)?;
        let params = definition.check(&spec.params)?;
        let operator = definition.bind(&params)?;
        Ok(BoundOperator::new(definition.clone(), params, operator))
    }
}
