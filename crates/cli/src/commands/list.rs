//! The commands that print a listing: of tables, columns, status, operators and models.

use cenote_runtime::arrow::array::ArrayRef;
use cenote_runtime::arrow::datatypes::Field;
use cenote_runtime::models::ModelRegistry;
use cenote_runtime::operator::{Definition, Shape};
use cenote_runtime::{
    ByteSize, Clock, Lake, LakeOptions, Result, SystemClock, TableStatus, Timestamp, derivations, is_blob,
    operators as known_operators,
};

use crate::arguments::OutputFormat;
use crate::output;

/// Prints the names of all tables.
pub async fn tables(lake: &Lake, format: OutputFormat) -> Result<()> {
    let names = output::texts(lake.tables().await?.into_iter().map(Some));
    output::rows(&output::listing(vec![("table", names)])?, format)
}

/// Prints the columns of `table`: their types, their places in the key, and what derives them.
pub async fn describe(lake: &Lake, table: &str, format: OutputFormat) -> Result<()> {
    let snapshot = lake.table(table).await?.snapshot().await?;
    let key = snapshot.primary_key().columns();
    let derivations = derivations(&snapshot);
    let derived = |column: &str| derivations.get(column).map(ToString::to_string);
    let data_type = |field: &Field| if is_blob(field) { "media".to_owned() } else { field.data_type().to_string() };
    let role = |field: &Field| match key.iter().position(|name| name == field.name()) {
        Some(position) if key.len() > 1 => Some(format!("key {}", position + 1)),
        Some(_) => Some("key".to_owned()),
        None => None,
    };
    let fields = snapshot.schema().fields();
    let columns = vec![
        ("column", output::texts(fields.iter().map(|field| Some(field.name().as_str())))),
        ("type", output::texts(fields.iter().map(|field| Some(data_type(field))))),
        ("key", output::texts(fields.iter().map(|field| role(field)))),
        ("derived", output::texts(fields.iter().map(|field| derived(field.name())))),
    ];
    output::rows(&output::listing(columns)?, format)
}

/// Prints the size, the versions, the upkeep and the indexes of each table.
pub async fn status(lake: &Lake, format: OutputFormat) -> Result<()> {
    let tables = lake.status().await?.tables;
    let is_for_people = format == OutputFormat::Table;
    let indexes = |table: &TableStatus| {
        let shown = table.indexes.iter().map(|index| match is_for_people {
            true => format!("{} (lags by {})", index.name, output::count(index.rows_unindexed, "row")),
            false => index.name.clone(),
        });
        shown.collect::<Vec<_>>().join(", ")
    };
    let unindexed = |table: &TableStatus| table.indexes.iter().map(|index| index.rows_unindexed as u64).max();
    let now = SystemClock.now().0;
    let seconds_since = |since: Timestamp| (now - since.0).max(0) as f64 / 1e6;
    let unfolded_for = |table: &TableStatus| table.upkeep.since.map(seconds_since);
    let upkeep = |table: &TableStatus| {
        let failure = table.upkeep.failure.as_ref().map(|failure| format!("failed: {failure}"));
        table.upkeep.doing.clone().or(failure)
    };
    let (bytes, unfolded_for, amplification): (ArrayRef, ArrayRef, ArrayRef) = if is_for_people {
        let seconds = |table: &TableStatus| unfolded_for(table).map(|seconds| format!("{seconds:.0} s"));
        let amplification = |table: &TableStatus| Some(format!("{:.1}", table.upkeep.amplification));
        (
            output::texts(tables.iter().map(|table| Some(ByteSize(table.bytes).to_string()))),
            output::texts(tables.iter().map(seconds)),
            output::texts(tables.iter().map(amplification)),
        )
    } else {
        (
            output::counts(tables.iter().map(|table| table.bytes)),
            output::numbers(tables.iter().map(unfolded_for)),
            output::numbers(tables.iter().map(|table| Some(table.upkeep.amplification))),
        )
    };
    let mut columns = vec![
        ("table", output::texts(tables.iter().map(|table| Some(table.name.as_str())))),
        ("rows", output::counts(tables.iter().map(|table| table.rows as u64))),
        ("version", output::counts(tables.iter().map(|table| table.version.0))),
        ("oldest", output::counts(tables.iter().map(|table| table.oldest.0))),
        ("bytes", bytes),
        ("files", output::counts(tables.iter().map(|table| table.upkeep.files as u64))),
        ("unfolded", output::counts(tables.iter().map(|table| table.upkeep.keys as u64))),
        ("unfolded_for", unfolded_for),
        ("amplification", amplification),
        ("upkeep", output::texts(tables.iter().map(upkeep))),
        ("errors", output::counts(tables.iter().map(|table| table.errors as u64))),
        ("indexes", output::texts(tables.iter().map(|table| Some(indexes(table))))),
    ];
    if !is_for_people {
        columns.push(("unindexed", output::counts(tables.iter().map(unindexed))));
    }
    output::rows(&output::listing(columns)?, format)
}

/// Prints all operators.
pub fn operators(format: OutputFormat) -> Result<()> {
    let registry = known_operators(&LakeOptions::default())?;
    let all: Vec<_> = registry.definitions().collect();
    let inputs = |definition: &Definition| {
        let ports = definition.inputs.iter().map(|port| format!("{}: {}", port.name, port.port_type));
        ports.collect::<Vec<_>>().join(", ")
    };
    let params = |definition: &Definition| {
        let params = definition.params.iter().map(|param| format!("{} = {}", param.name, param.default));
        params.collect::<Vec<_>>().join(", ")
    };
    let makes = |definition: &Definition| match definition.shape {
        Shape::RowWise => "columns",
        Shape::Filter => "score",
        Shape::OneToMany => "child table",
    };
    let columns = vec![
        ("operator", output::texts(all.iter().map(|definition| Some(definition.name)))),
        ("inputs", output::texts(all.iter().map(|definition| Some(inputs(definition))))),
        ("makes", output::texts(all.iter().map(|definition| Some(makes(definition))))),
        ("parameters", output::texts(all.iter().map(|definition| Some(params(definition))))),
        ("summary", output::texts(all.iter().map(|definition| Some(definition.summary)))),
    ];
    output::rows(&output::listing(columns)?, format)
}

/// Prints all models.
pub fn models(format: OutputFormat) -> Result<()> {
    let registry = ModelRegistry::new(LakeOptions::default().models)?;
    let all: Vec<_> = registry.manifests().collect();
    let columns = vec![
        ("model", output::texts(all.iter().map(|manifest| Some(manifest.name.as_str())))),
        ("version", output::texts(all.iter().map(|manifest| Some(manifest.version.as_str())))),
        ("licence", output::texts(all.iter().map(|manifest| Some(manifest.licence.as_str())))),
        ("summary", output::texts(all.iter().map(|manifest| Some(manifest.summary.as_str())))),
    ];
    output::rows(&output::listing(columns)?, format)
}
