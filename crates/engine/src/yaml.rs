//! A recipe from YAML, with the position of every part for errors that come later.

use std::collections::BTreeMap;

use cenote_base::{Error, Result};
use cenote_operator::{OperatorSpec, Params};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::recipe::{IndexRequest, Keep, Positions, Recipe, Step};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeText {
    name: String,
    #[serde(default)]
    steps: Vec<StepText>,
    #[serde(default)]
    indexes: Vec<IndexRequest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepText {
    table: Spanned<String>,
    operator: Spanned<String>,
    input: Spanned<Names>,
    params: Option<Spanned<Params>>,
    output: Option<Spanned<Names>>,
    into: Option<Spanned<String>>,
    r#where: Option<Spanned<String>>,
    keep: Option<Spanned<Keep>>,
}

/// One name, or a map from ports (or output fields) to columns.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(BTreeMap<String, String>),
}

impl From<Names> for BTreeMap<String, String> {
    fn from(names: Names) -> Self {
        match names {
            Names::One(name) => Self::from([(String::new(), name)]),
            Names::Many(names) => names,
        }
    }
}

pub(crate) fn parse(text: &str, origin: &str) -> Result<Recipe> {
    let recipe: RecipeText = serde_saphyr::from_str(text).map_err(|source| {
        let place = source.location().map_or_else(String::new, |at| format!(":{}:{}", at.line(), at.column()));
        let rendered = source.without_snippet().to_string();
        let reason = rendered.split(" at line ").next().unwrap_or(&rendered).trim().to_owned();
        Error::invalid_input(format!("{origin}{place}: {reason}")).with_source(source)
    })?;
    let mut positions = Positions { origin: origin.to_owned(), steps: Vec::new() };
    let mut steps = Vec::new();
    for step in recipe.steps {
        let mut places = BTreeMap::new();
        let table = take(step.table, "table", &mut places);
        let operator = OperatorSpec::new(take(step.operator, "operator", &mut places));
        let input = take(step.input, "input", &mut places).into();
        let output = step.output.map(|output| take(output, "output", &mut places).into()).unwrap_or_default();
        let params = step.params.map(|params| take(params, "params", &mut places)).unwrap_or_default();
        let into = step.into.map(|into| take(into, "into", &mut places));
        let filter = step.r#where.map(|filter| take(filter, "where", &mut places));
        let keep = step.keep.map(|keep| take(keep, "keep", &mut places));
        steps.push(Step { table, operator, input, output, into, filter, keep }.params(params));
        positions.steps.push(places);
    }
    Ok(Recipe { name: recipe.name, steps, indexes: recipe.indexes, positions })
}

fn take<T>(spanned: Spanned<T>, field: &'static str, places: &mut BTreeMap<&'static str, (u64, u64)>) -> T {
    places.insert(field, (spanned.referenced.line(), spanned.referenced.column()));
    spanned.value
}
