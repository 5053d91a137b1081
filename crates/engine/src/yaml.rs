//! Recipes from YAML, with the position of every field for errors that come later.

use std::borrow::Cow;
use std::collections::BTreeMap;

use cenote_base::{Error, Result};
use cenote_operator::{OperatorSpec, Params};
use serde::Deserialize;
use serde_saphyr::{DefaultMessageFormatter, Localizer, Location, Spanned};

use crate::recipe::{FieldPositions, IndexRequest, Keep, Recipe, Step, TextPosition};

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

/// Leaves the location out of the parser's messages: it comes first in ours.
struct WithoutLocation;

impl Localizer for WithoutLocation {
    fn attach_location<'a>(&self, message: Cow<'a, str>, _location: Location) -> Cow<'a, str> {
        message
    }
}

impl Recipe {
    /// Reads a recipe from YAML. Errors name `origin` (a path) as its source.
    ///
    /// # Errors
    /// `InvalidInput` with origin, line and column.
    pub fn from_yaml(text: &str, origin: &str) -> Result<Self> {
        let recipe: RecipeText = serde_saphyr::from_str(text).map_err(|source| {
            let place = source.location().map_or_else(String::new, |at| format!(":{}:{}", at.line(), at.column()));
            let formatter = DefaultMessageFormatter.with_localizer(&WithoutLocation);
            let reason = source.without_snippet().render_with_formatter(&formatter);
            Error::invalid_input(format!("{origin}{place}: {reason}")).with_source(source)
        })?;
        let mut positions = FieldPositions::new(origin);
        let mut steps = Vec::new();
        for step in recipe.steps {
            let mut fields = BTreeMap::new();
            let table = take(step.table, "table", &mut fields);
            let mut operator = OperatorSpec::new(take(step.operator, "operator", &mut fields));
            let input = take(step.input, "input", &mut fields).into();
            let output = step.output.map(|output| take(output, "output", &mut fields).into()).unwrap_or_default();
            operator.params = step.params.map(|params| take(params, "params", &mut fields)).unwrap_or_default();
            let into = step.into.map(|into| take(into, "into", &mut fields));
            let filter = step.r#where.map(|filter| take(filter, "where", &mut fields));
            let keep = step.keep.map(|keep| take(keep, "keep", &mut fields));
            steps.push(Step { table, operator, input, output, into, filter, keep });
            positions.push(fields);
        }
        Ok(Self { name: recipe.name, steps, indexes: recipe.indexes, positions })
    }
}

/// Takes the value of `field` and notes its position.
fn take<T>(spanned: Spanned<T>, field: &'static str, fields: &mut BTreeMap<&'static str, TextPosition>) -> T {
    let (line, column) = (spanned.referenced.line(), spanned.referenced.column());
    fields.insert(field, TextPosition { line, column });
    spanned.value
}
