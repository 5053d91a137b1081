//! Plans predicates that are written in SQL: with the parser, the functions and the type rules of a SELECT.
//!
//! - A name means the column that it spells, whatever its case; one in double quotes means exactly that column.
//! - A number beside a column of floats is rounded to the column's type, so that `price = 2.1` finds the 2.1 that was
//!   stored, whatever the type of the column.
//! - Long chains of `AND` and `OR` are planned as balanced trees, because planners recurse. Other nesting is bounded.

use std::ops::ControlFlow;
use std::sync::LazyLock;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use cenote_base::{Error, Result, unknown};
use lance::deps::datafusion::common::tree_node::{Transformed, TreeNode};
use lance::deps::datafusion::common::{DFSchema, DataFusionError, ScalarValue, SchemaError};
use lance::deps::datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use lance::deps::datafusion::logical_expr::expr::{Between, InList, Like};
use lance::deps::datafusion::logical_expr::{BinaryExpr, ExprSchemable};
use lance::deps::datafusion::prelude::Expr;
use lance::deps::datafusion::sql::sqlparser::ast::{
    self, AccessExpr, BinaryOperator, ExprWithAlias, Ident, Value, VisitMut, VisitorMut,
};
use lance::deps::datafusion::sql::sqlparser::dialect::GenericDialect;
use lance::deps::datafusion::sql::sqlparser::parser::Parser;
use lance::deps::datafusion::sql::sqlparser::tokenizer::Token;

use crate::errors::lance_error;

/// Operators in a chain other than of `AND` or `OR`, at most: `a + b + …`.
const CHAIN_MAX: usize = 200;

/// The functions and rules of a SELECT.
static SESSION: LazyLock<SessionState> = LazyLock::new(|| SessionStateBuilder::new().with_default_features().build());

/// Plans the predicate `text` over rows of `schema`.
///
/// # Errors
/// `InvalidInput` when `text` is not one SQL expression over these columns.
pub(crate) fn plan(text: &str, schema: &Schema) -> Result<Expr> {
    let mut parsed = balanced(parse(text)?)?;
    if let ControlFlow::Break(error) = VisitMut::visit(&mut parsed, &mut Names { schema }) {
        return Err(error);
    }
    let schema = DFSchema::try_from(schema.clone()).map_err(|source| lance_error(source.into()))?;
    let expr = SESSION.create_logical_expr_from_sql_expr(ExprWithAlias { expr: parsed, alias: None }, &schema);
    let expr = expr.and_then(|expr| Ok(expr.transform_up(|expr| adapted(expr, &schema))?.data)).map_err(plan_error)?;
    let is_aggregate = |expr: &Expr| Ok(matches!(expr, Expr::AggregateFunction(_) | Expr::WindowFunction(_)));
    match expr.exists(is_aggregate).map_err(plan_error)? {
        true => Err(Error::invalid_input("a filter is a condition on one row: it cannot aggregate rows")),
        false => Ok(expr),
    }
}

fn plan_error(source: DataFusionError) -> Error {
    let message = match source.find_root() {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let known = valid_fields.iter().map(|field| field.name.as_str());
                unknown("column", &field.name, known).message().to_owned()
            }
            other => other.to_string(),
        },
        DataFusionError::Plan(text) | DataFusionError::NotImplemented(text) => text.clone(),
        other => other.strip_backtrace(),
    };
    Error::invalid_input(message).with_source(source)
}

fn parse(text: &str) -> Result<ast::Expr> {
    let parsed = Parser::new(&GenericDialect {}).try_with_sql(text).and_then(|mut parser| {
        let parsed = parser.parse_expr()?;
        parser.expect_token(&Token::EOF).map(|_| parsed)
    });
    parsed.map_err(|source| Error::invalid_input(format!("not a SQL predicate: {source}")))
}

/// Makes balanced trees of chains of `AND` and `OR`, which the parser nests to the left.
///
/// # Errors
/// `InvalidInput` for another chain of more than [`CHAIN_MAX`] operators.
fn balanced(expr: ast::Expr) -> Result<ast::Expr> {
    match expr {
        ast::Expr::BinaryOp { left, op: chain @ (BinaryOperator::And | BinaryOperator::Or), right } => {
            let mut terms = vec![*right];
            let mut rest = *left;
            loop {
                match rest {
                    ast::Expr::BinaryOp { left, op, right } if op == chain => {
                        terms.push(*right);
                        rest = *left;
                    }
                    first => {
                        terms.push(first);
                        break;
                    }
                }
            }
            let terms = terms.into_iter().rev().map(balanced).collect::<Result<Vec<_>>>()?;
            Ok(joined(terms, &chain))
        }
        ast::Expr::Nested(inner) => Ok(ast::Expr::Nested(Box::new(balanced(*inner)?))),
        ast::Expr::UnaryOp { op, expr } => Ok(ast::Expr::UnaryOp { op, expr: Box::new(balanced(*expr)?) }),
        other => {
            let (mut length, mut rest) = (0, &other);
            while let ast::Expr::BinaryOp { left, .. } = rest {
                (length, rest) = (length + 1, left);
            }
            match length > CHAIN_MAX {
                true => Err(Error::invalid_input(format!(
                    "{length} operators in a chain; at most {CHAIN_MAX}, other than AND and OR"
                ))),
                false => Ok(other),
            }
        }
    }
}

/// Joins `terms`, of which there is one at least, in a balanced tree.
fn joined(mut terms: Vec<ast::Expr>, op: &BinaryOperator) -> ast::Expr {
    while terms.len() > 1 {
        let mut pairs = terms.into_iter();
        terms = std::iter::from_fn(|| {
            let left = pairs.next()?;
            Some(match pairs.next() {
                Some(right) => ast::Expr::BinaryOp { left: left.into(), op: op.clone(), right: right.into() },
                None => left,
            })
        })
        .collect();
    }
    terms.remove(0)
}

/// Gives each name the spelling of its column, and refuses what a condition on a row cannot hold.
struct Names<'a> {
    schema: &'a Schema,
}

impl VisitorMut for Names<'_> {
    type Break = Error;

    fn pre_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<Error> {
        let done = match expr {
            ast::Expr::Identifier(name) => respell(name, self.schema.fields()).map(drop),
            ast::Expr::CompoundIdentifier(path) => respell_path(path, self.schema.fields()),
            ast::Expr::CompoundFieldAccess { root, access_chain } => {
                let fields = match root.as_mut() {
                    ast::Expr::Identifier(name) => respell(name, self.schema.fields()),
                    _ => Ok(None),
                };
                fields.and_then(|field| respell_access(access_chain, field))
            }
            ast::Expr::Value(value) => match &value.value {
                Value::Placeholder(name) => Err(Error::invalid_input(format!(
                    "a filter takes no parameters, found `{name}`: write the value itself"
                ))),
                _ => Ok(()),
            },
            ast::Expr::Subquery(_) | ast::Expr::Exists { .. } | ast::Expr::InSubquery { .. } => {
                Err(Error::unsupported("a filter cannot hold a query: use SQL"))
            }
            _ => Ok(()),
        };
        match done {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// Gives `name` the spelling of the one of `fields` that it means, and returns that; `None` when it means none of them.
///
/// # Errors
/// `InvalidInput` when it means several.
fn respell<'a>(name: &mut Ident, fields: &'a Fields) -> Result<Option<&'a Field>> {
    if name.quote_style.is_some() {
        return Ok(fields.iter().find(|field| *field.name() == name.value).map(AsRef::as_ref));
    }
    let folded = name.value.to_lowercase();
    let found: Vec<_> = fields.iter().filter(|field| field.name().to_lowercase() == folded).collect();
    match found[..] {
        [] => {
            // So that the error says it as it was written.
            name.quote_style = Some('"');
            Ok(None)
        }
        [field] => {
            *name = Ident::with_quote('"', field.name());
            Ok(Some(field))
        }
        [first, second, ..] => Err(Error::invalid_input(format!(
            "`{name}` may be `{}` or `{}`: write the one that you mean in double quotes",
            first.name(),
            second.name()
        ))),
    }
}

fn respell_path(path: &mut [Ident], fields: &Fields) -> Result<()> {
    let mut fields = Some(fields);
    for name in path {
        let Some(known) = fields else { break };
        fields = respell(name, known)?.and_then(|field| fields_of(field.data_type()));
    }
    Ok(())
}

fn respell_access(chain: &mut [AccessExpr], root: Option<&Field>) -> Result<()> {
    let mut data_type = root.map(Field::data_type);
    for access in chain {
        data_type = match (access, data_type) {
            (AccessExpr::Dot(ast::Expr::Identifier(name)), Some(DataType::Struct(fields))) => {
                respell(name, fields)?.map(Field::data_type)
            }
            (AccessExpr::Subscript(_), Some(DataType::List(item) | DataType::LargeList(item))) => {
                Some(item.data_type())
            }
            (AccessExpr::Subscript(_), Some(DataType::FixedSizeList(item, _))) => Some(item.data_type()),
            _ => return Ok(()),
        };
    }
    Ok(())
}

fn fields_of(data_type: &DataType) -> Option<&Fields> {
    match data_type {
        DataType::Struct(fields) => Some(fields),
        _ => None,
    }
}

/// Returns `expr` as the executor of predicates takes it.
fn adapted(expr: Expr, schema: &DFSchema) -> std::result::Result<Transformed<Expr>, DataFusionError> {
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
            let (left, right) = (rounded(*left, &right, schema)?, right);
            let right = rounded(*right, &left, schema)?;
            Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left.into(), op, right.into())))
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let (low, high) = (rounded(*low, &expr, schema)?, rounded(*high, &expr, schema)?);
            Transformed::yes(Expr::Between(Between::new(expr, negated, low.into(), high.into())))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let list = list.into_iter().map(|value| rounded(value, &expr, schema));
            let list = list.collect::<std::result::Result<_, _>>()?;
            Transformed::yes(Expr::InList(InList::new(expr, list, negated)))
        }
        // The only escape character that is executed is the backslash.
        Expr::Like(Like { negated, expr, pattern, escape_char: Some(escape), case_insensitive }) => {
            let pattern = match *pattern {
                Expr::Literal(ScalarValue::Utf8(Some(pattern)), metadata) => {
                    Expr::Literal(ScalarValue::Utf8(Some(escaped(&pattern, escape))), metadata)
                }
                pattern => {
                    let what = format!("an escape character with the pattern `{pattern}`, which is not a text");
                    return Err(DataFusionError::NotImplemented(what));
                }
            };
            Transformed::yes(Expr::Like(Like::new(negated, expr, pattern.into(), None, case_insensitive)))
        }
        other => Transformed::no(other),
    })
}

/// Returns `value`, rounded to the type of `other` if it is a number beside floats.
fn rounded(value: Expr, other: &Expr, schema: &DFSchema) -> std::result::Result<Expr, DataFusionError> {
    let Expr::Literal(number, metadata) = &value else { return Ok(value) };
    if !number.data_type().is_numeric() || matches!(other, Expr::Literal(..)) {
        return Ok(value);
    }
    let wanted = other.get_type(schema)?;
    if !matches!(wanted, DataType::Float16 | DataType::Float32) {
        return Ok(value);
    }
    let rounded = number.cast_to(&wanted)?;
    // A number that the type cannot hold is compared as it is.
    let is_finite = match &rounded {
        ScalarValue::Float16(Some(number)) => number.is_finite(),
        ScalarValue::Float32(Some(number)) => number.is_finite(),
        _ => false,
    };
    Ok(if is_finite { Expr::Literal(rounded, metadata.clone()) } else { value })
}

/// Returns `pattern`, in which `escape` is the escape character, with backslashes in its place.
fn escaped(pattern: &str, escape: char) -> String {
    let mut with_backslashes = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        match char {
            char if char == escape => {
                with_backslashes.push('\\');
                with_backslashes.extend(chars.next());
            }
            '\\' => with_backslashes.push_str(r"\\"),
            char => with_backslashes.push(char),
        }
    }
    with_backslashes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    fn schema() -> Schema {
        let inner = Fields::from(vec![Field::new("Deep", DataType::Int64, true)]);
        let item = Arc::new(Field::new("item", DataType::Struct(inner.clone()), true));
        Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("Party Abbrev", DataType::Utf8, true),
            Field::new("Größe", DataType::Float32, true),
            Field::new("at", DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, None), true),
            Field::new("s", DataType::Struct(inner), true),
            Field::new("l", DataType::List(item), true),
            Field::new("twin", DataType::Int64, true),
            Field::new("Twin", DataType::Int64, true),
        ])
    }

    #[test]
    fn predicates_are_planned_as_in_a_select() {
        for (text, expected) in [
            (r#""Party Abbrev" <> 'D'"#, r#"Party Abbrev != Utf8("D")"#),
            ("`a` = 1 -- \"c\"", "a = Int64(1)"),
            ("A = -9223372036854775808", "a = Int64(-9223372036854775808)"),
            ("GRÖSSE < 1", "no column `GRÖSSE`"),
            ("größe = 2.1", "Größe = Float32(2.1)"),
            ("größe < 1e300", "Größe < Float64(1000000000000000000000000000000000000"),
            ("größe IN (1, 2.5)", "Größe IN ([Float32(1), Float32(2.5)])"),
            (r#""twin" = "Twin""#, "twin = Twin"),
            ("TWIN = 1", "`TWIN` may be `twin` or `Twin`: write the one that you mean in double quotes"),
            ("S.DEEP = 1", r#"get_field(s, Utf8("Deep")) = Int64(1)"#),
            (r#""Party Abbrev" LIKE 'x!_\%' ESCAPE '!'"#, r#"Party Abbrev LIKE Utf8("x\_\\%")"#),
            ("a > 0 LIMIT 1", "not a SQL predicate: sql parser error: Expected: EOF, found: LIMIT"),
            ("a > 0; DELETE FROM t", "found: ;"),
            ("a = 'x", "not a SQL predicate"),
            ("", "not a SQL predicate"),
            ("1=1) or (true", "found: )"),
            ("a = $1", "a filter takes no parameters, found `$1`: write the value itself"),
            ("a = ?", "found `?`"),
            ("a IN (SELECT 1)", "a filter cannot hold a query"),
            ("sum(a) > 1", "it cannot aggregate rows"),
            ("b = 1", "no column `b`; there are a, Party Abbrev"),
        ] {
            let found = match plan(text, &schema()) {
                Ok(expr) => expr.to_string(),
                Err(error) => error.message().to_owned(),
            };
            assert!(found.contains(expected), "{text}: {found}");
        }
    }

    #[test]
    fn long_chains_are_planned_as_balanced_trees() {
        let text = (0..5_000).map(|number| format!("a = {number}")).collect::<Vec<_>>().join(" OR ");
        let mut depth = 0;
        let mut rest = plan(&text, &schema()).unwrap();
        while let Expr::BinaryExpr(BinaryExpr { left, .. }) = rest {
            (depth, rest) = (depth + 1, *left);
        }
        assert!(depth < 20, "{depth}");
        let refused = plan(&format!("a{} > 0", " + 1".repeat(10_000)), &schema()).unwrap_err();
        assert!(refused.message().contains("operators in a chain; at most 200"), "{refused}");
    }
}
