//! The Python package's native part: lakes, tables, rows and the training loader for `import cenote`.
//!
//! It is thin. The classes that users see, their types and their documentation are in `python/cenote`; this crate turns
//! Python's values into Rust's and back, without copies where Arrow and DLPack allow it, and releases the interpreter's
//! lock around all work. It knows the facade and the command line, and nothing below them.

mod command;
mod fault;
mod interchange;
mod lake;
mod loader;
mod operators;
mod process;
mod rows;
mod schema;
mod table;
mod tensor;
mod values;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<interchange::PySchema>()?;
    module.add_class::<rows::PyRows>()?;
    module.add_class::<rows::PyColumn>()?;
    module.add_class::<rows::PyStream>()?;
    module.add_class::<lake::PyLake>()?;
    module.add_class::<table::PyTable>()?;
    module.add_class::<table::PyChanges>()?;
    module.add_class::<loader::PyBatch>()?;
    module.add_class::<loader::PyLoader>()?;
    module.add_class::<tensor::PyTensor>()?;
    module.add_function(wrap_pyfunction!(operators::child::serve, module)?)?;
    module.add_function(wrap_pyfunction!(command::command, module)?)?;
    module.add_function(wrap_pyfunction!(lake::init, module)?)?;
    module.add_function(wrap_pyfunction!(lake::open, module)?)?;
    module.add_function(wrap_pyfunction!(loader::merge_states, module)?)?;
    module.add_function(wrap_pyfunction!(operators::register, module)?)?;
    module.add_function(wrap_pyfunction!(rows::unpickle_column, module)?)?;
    module.add_function(wrap_pyfunction!(rows::unpickle_rows, module)?)?;
    module.add_function(wrap_pyfunction!(tensor::unpickle_tensor, module)?)?;
    module.add_function(wrap_pyfunction!(schema::schema, module)?)
}
