//! The commands that list what there is: tables, columns, status, operators, models.

use cenote_runtime::models::ModelRegistry;
use cenote_runtime::operator::Shape;
use cenote_runtime::{ByteSize, Lake, LakeOptions, Result, is_blob, operators as known_operators};

use crate::arguments::FormatKind;
use crate::output;

pub async fn tables(lake: &Lake, format: FormatKind) -> Result<()> {
    let rows: Vec<Vec<String>> = lake.tables().await?.into_iter().map(|name| vec![name]).collect();
    output::rows(&output::listing(&["table"], &rows)?, format)
}

pub async fn describe(lake: &Lake, table: &str, format: FormatKind) -> Result<()> {
    let snapshot = lake.table(table).await?.snapshot().await?;
    let key = snapshot.primary_key().columns();
    let derived = |column: &str| {
        snapshot.properties().iter().filter(|(name, _)| name.starts_with("cenote.derived.")).find_map(|(_, text)| {
            let made: serde_json::Value = serde_json::from_str(text).ok()?;
            let makes = made["outputs"].as_array()?.iter().any(|output| output == column) && made["into"].is_null();
            let inputs: Vec<&str> = made["inputs"].as_array()?.iter().filter_map(|input| input.as_str()).collect();
            makes.then(|| format!("{}({})", made["operator"].as_str().unwrap_or_default(), inputs.join(", ")))
        })
    };
    let row = |field: &cenote_runtime::arrow::datatypes::FieldRef| {
        let data_type = if is_blob(field) { "media".to_owned() } else { field.data_type().to_string() };
        let role = match key.iter().position(|name| name == field.name()) {
            Some(position) if key.len() > 1 => format!("key {}", position + 1),
            Some(_) => "key".to_owned(),
            None => String::new(),
        };
        vec![field.name().clone(), data_type, role, derived(field.name()).unwrap_or_default()]
    };
    let rows: Vec<Vec<String>> = snapshot.schema().fields().iter().map(row).collect();
    output::rows(&output::listing(&["column", "type", "key", "derived"], &rows)?, format)
}

pub async fn status(lake: &Lake, format: FormatKind) -> Result<()> {
    let status = lake.status().await?;
    let rows: Vec<Vec<String>> = status
        .tables
        .iter()
        .map(|table| {
            let index = |index: &cenote_runtime::IndexInfo| format!("{} ({} late)", index.name, index.rows_unindexed);
            vec![
                table.name.clone(),
                table.rows.to_string(),
                table.version.to_string(),
                ByteSize(table.bytes).to_string(),
                table.errors.to_string(),
                table.indexes.iter().map(index).collect::<Vec<_>>().join(", "),
            ]
        })
        .collect();
    output::rows(&output::listing(&["table", "rows", "version", "bytes", "errors", "indexes"], &rows)?, format)
}

pub fn operators(format: FormatKind) -> Result<()> {
    let registry = known_operators(&LakeOptions::default())?;
    let rows: Vec<Vec<String>> = registry
        .definitions()
        .map(|definition| {
            let inputs: Vec<String> =
                definition.inputs.iter().map(|port| format!("{}: {}", port.name, port.port_type)).collect();
            let params: Vec<String> =
                definition.params.iter().map(|param| format!("{} = {}", param.name, param.default)).collect();
            let shape = match definition.shape {
                Shape::RowWise => "columns",
                Shape::Filter => "score",
                Shape::OneToMany => "child table",
            };
            vec![
                definition.name.to_owned(),
                inputs.join(", "),
                shape.to_owned(),
                params.join(", "),
                definition.summary.to_owned(),
            ]
        })
        .collect();
    output::rows(&output::listing(&["operator", "inputs", "makes", "parameters", "summary"], &rows)?, format)
}

pub fn models(format: FormatKind) -> Result<()> {
    let registry = ModelRegistry::new(LakeOptions::default().models)?;
    let rows: Vec<Vec<String>> = registry
        .manifests()
        .map(|manifest| {
            vec![manifest.name.clone(), manifest.version.clone(), manifest.licence.clone(), manifest.summary.clone()]
        })
        .collect();
    output::rows(&output::listing(&["model", "version", "licence", "summary"], &rows)?, format)
}
