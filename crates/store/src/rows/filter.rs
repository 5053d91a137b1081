//! Filters: which rows a scan wants.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use cenote_base::{Error, Result};
use lance::dataset::scanner::Scanner;
use lance::deps::datafusion::common::tree_node::TreeNode;
use lance::deps::datafusion::logical_expr::Volatility;
use lance::deps::datafusion::physical_plan::PhysicalExpr;
use lance::deps::datafusion::prelude::Expr;
use lance::deps::datafusion::sql::sqlparser::dialect::GenericDialect;
use lance::deps::datafusion::sql::sqlparser::parser::Parser;
use lance::deps::datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer, Word};
use lance_datafusion::planner::Planner;

use crate::errors::lance_error;

/// A condition on rows: a SQL predicate over the table's columns, or an expression of the query engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// A SQL predicate such as `width >= 640 AND format = 'jpeg'`.
    Sql(String),
    /// An expression that a planner pushes down.
    Expr(Box<Expr>),
}

impl From<&str> for Filter {
    fn from(text: &str) -> Self {
        Self::Sql(text.to_owned())
    }
}

impl From<String> for Filter {
    fn from(text: String) -> Self {
        Self::Sql(text)
    }
}

impl From<Expr> for Filter {
    fn from(expr: Expr) -> Self {
        Self::Expr(Box::new(expr))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(text) => text.fmt(f),
            Self::Expr(expr) => expr.fmt(f),
        }
    }
}

impl Filter {
    /// Checks that the filter is a condition on rows of `schema`, and returns the columns that it compares.
    ///
    /// # Errors
    /// `InvalidInput` when it does not parse, names another column, compares other types, or is not a condition.
    pub fn compared(&self, schema: &SchemaRef) -> Result<BTreeSet<String>> {
        let kind = self.predicate(schema)?.data_type(schema);
        match kind.map_err(|source| lance_error(source.into()).context(format!("filter `{self}`")))? {
            DataType::Boolean => Ok(self.columns(schema)?.into_iter().collect()),
            _ => Err(Error::invalid_input(format!("filter `{self}` is not a condition"))),
        }
    }

    /// Returns the filter as a physical expression over rows of `schema`.
    pub(crate) fn predicate(&self, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
        let planner = Planner::new(Arc::clone(schema));
        let expression = planner.optimize_expr(self.expression(schema)?);
        let predicate = expression.and_then(|expression| planner.create_physical_expr(&expression));
        predicate.map_err(|source| lance_error(source).context(format!("filter `{self}`")))
    }

    /// Returns whether the filter gives the same result for a row each time, that is, whether it depends neither on the
    /// time nor on chance.
    pub(crate) fn is_steady(&self, schema: &SchemaRef) -> Result<bool> {
        let varies = |node: &Expr| {
            Ok(matches!(node, Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable))
        };
        let varies = self.expression(schema)?.exists(varies);
        varies
            .map(|varies| !varies)
            .map_err(|source| Error::internal(format!("read filter `{self}`")).with_source(source))
    }

    /// Returns the names of the columns that it compares.
    pub(crate) fn columns(&self, schema: &SchemaRef) -> Result<HashSet<String>> {
        Ok(self.expression(schema)?.column_refs().into_iter().map(|column| column.name.clone()).collect())
    }

    /// Returns the filter as a DataFusion expression, with the columns and types of `schema`.
    pub(crate) fn expression(&self, schema: &SchemaRef) -> Result<Expr> {
        match self {
            Self::Sql(text) => {
                let text = for_lance(text).map_err(|error| error.context(format!("filter `{self}`")))?;
                Planner::new(Arc::clone(schema)).parse_filter(&text)
            }
            Self::Expr(expression) => Ok(expression.as_ref().clone()),
        }
        .map_err(|source| lance_error(source).context(format!("filter `{self}`")))
    }

    /// Returns the error of a filter that fails on a row, with `source`.
    pub(crate) fn failed(&self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::invalid_input(format!("filter `{self}` fails on a row: {source}")).with_source(source)
    }

    /// Makes `scanner` scan only the rows that satisfy the filter.
    ///
    /// # Errors
    /// `InvalidInput` when it does not parse.
    pub fn apply(&self, scanner: &mut Scanner) -> Result<()> {
        match self {
            Self::Sql(text) => {
                let text = for_lance(text).map_err(|error| error.context(format!("filter `{self}`")))?;
                let applied = scanner.filter(&text).map(drop);
                applied.map_err(|source| lance_error(source).context(format!("filter `{self}`")))
            }
            Self::Expr(expression) => {
                scanner.filter_expr(expression.as_ref().clone());
                Ok(())
            }
        }
    }
}

/// Returns the predicate `text` in the dialect of Lance's parser, which takes a name in double quotes for a string,
/// ends silently where the predicate does, and panics at literals that it does not know.
///
/// # Errors
/// `InvalidInput` for text that is not one SQL expression, or contains such a literal.
fn for_lance(text: &str) -> Result<String> {
    let wrong = |source: &dyn fmt::Display| Error::invalid_input(format!("not a SQL predicate: {source}"));
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize().map_err(|source| wrong(&source))?;
    let rendered = tokens.iter().map(|token| match token {
        Token::Word(Word { value, quote_style: Some('"'), .. }) => match value.contains('`') {
            false => Ok(format!("`{value}`")),
            true => Err(Error::unsupported(format!("column `{value}` cannot be named in a filter, for its backtick"))),
        },
        Token::SingleQuotedString(value) => Ok(format!("'{}'", value.replace('\'', "''"))),
        Token::Placeholder(name) => {
            Err(Error::invalid_input(format!("a filter takes no parameters, found `{name}`: write the value itself")))
        }
        Token::Word(_) | Token::HexStringLiteral(_) | Token::Whitespace(_) => Ok(token.to_string()),
        token => match token.to_string() {
            literal if literal.contains(['\'', '"', '$']) => {
                Err(Error::unsupported(format!("the literal {literal} in a filter: write text as 'text'")))
            }
            token => Ok(token),
        },
    });
    let rendered = rendered.collect::<Result<String>>()?;
    let mut parser = Parser::new(&GenericDialect {}).with_tokens(tokens);
    let parsed = parser.parse_expr().and_then(|_| parser.expect_token(&Token::EOF));
    parsed.map_err(|source| wrong(&source))?;
    Ok(rendered)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quotes_mean_what_they_mean_in_sql() {
        for (text, expected) in [
            (r#""Party Abbrev" <> 'D'"#, "`Party Abbrev` <> 'D'"),
            ("`a` = 'it''s \"so\"'", "`a` = 'it''s \"so\"'"),
            ("a == 1 AND b IN (X'0aff') -- \"c\"", "a == 1 AND b IN (X'0aff') -- \"c\""),
            (
                "a.b[1] >= -1.5e3 OR NOT (c LIKE 'x!_%' ESCAPE '!')",
                "a.b[1] >= -1.5e3 OR NOT (c LIKE 'x!_%' ESCAPE '!')",
            ),
            ("größe > 3", "größe > 3"),
        ] {
            assert_eq!(for_lance(text).unwrap(), expected);
        }
    }

    #[test]
    fn what_lance_would_misread_is_refused() {
        for (text, says) in [
            ("a = ?", "a filter takes no parameters, found `?`: write the value itself"),
            ("a = $1", "found `$1`"),
            ("a = N'x'", "the literal N'x' in a filter"),
            ("a = $$x$$", "the literal $$x$$ in a filter"),
            ("a > 0 LIMIT 1", "not a SQL predicate: sql parser error: Expected: EOF, found: LIMIT"),
            ("a > 0; DELETE FROM t", "found: ;"),
            ("a = 'x", "not a SQL predicate"),
            (r#""a`b" = 1"#, "column `a`b` cannot be named in a filter"),
            ("", "not a SQL predicate"),
        ] {
            let error = for_lance(text).unwrap_err();
            assert!(error.message().contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn long_predicates_do_not_recurse() {
        let text = vec!["a = 1"; 5_000].join(" OR ");
        assert_eq!(for_lance(&text).unwrap(), text);
    }
}
