//! Checks of a statement before it is planned: that it only reads, and which tables its table functions search.

use std::ops::ControlFlow;

use cenote_base::{Error, Result};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Statement as Ast, TableFactor, Value, Visit, Visitor,
};

use crate::search::table_function::is_search;

/// The way to set the limits of queries, which no statement does.
const SETTINGS: &str = "the options that open the lake, such as `--memory` and `--cpus`";

/// Checks that `statement` only reads. Names of methods in its error are those of Python and of Rust alike.
///
/// # Errors
/// `Unsupported` for a statement that would change something, naming what does so instead.
pub(crate) fn check_reads(statement: &Statement) -> Result<()> {
    let (what, instead) = match statement {
        Statement::Statement(ast) => match ast.as_ref() {
            Ast::Query(_)
            | Ast::ShowTables { .. }
            | Ast::ShowColumns { .. }
            | Ast::ShowVariable { .. }
            | Ast::ShowFunctions { .. }
            | Ast::ShowSchemas { .. }
            | Ast::ExplainTable { .. } => return Ok(()),
            Ast::Explain { statement, .. } => return check_reads(&Statement::Statement(statement.clone())),
            Ast::Insert(_) => ("INSERT", "`cenote ingest TABLE PATH…` or `table.upsert(…)`"),
            Ast::Update { .. } => ("UPDATE", "`table.update(…)`"),
            Ast::Delete(_) => ("DELETE", "`cenote delete TABLE KEY…` or `table.delete(…)`"),
            Ast::Merge { .. } => ("MERGE", "`table.upsert(…)`"),
            Ast::CreateTable(_) => ("CREATE TABLE", "`cenote ingest TABLE PATH…` or `lake.create_table(…)`"),
            Ast::AlterTable { .. } => ("ALTER TABLE", "`cenote run RECIPE` or `table.add_columns(…)`"),
            Ast::Drop { .. } => ("DROP", "`lake.drop_table(…)`, or `DROP INDEX name ON table`"),
            Ast::Truncate { .. } => ("TRUNCATE", "`cenote delete TABLE KEY…` or `table.delete(…)`"),
            Ast::Copy { .. } => ("COPY", "`cenote ingest TABLE PATH…`, and `cenote sql … --format` for output"),
            Ast::Set(_) => ("SET", SETTINGS),
            _ => ("this statement", "SELECT, EXPLAIN, SHOW or DESCRIBE; rows and tables change outside of SQL"),
        },
        Statement::Explain(explain) => return check_reads(&explain.statement),
        Statement::CopyTo(_) => ("COPY", "`cenote sql … --format csv|json|arrow`"),
        Statement::CreateExternalTable(_) => ("CREATE EXTERNAL TABLE", "`cenote ingest TABLE PATH…`"),
        Statement::Reset(_) => ("RESET", SETTINGS),
    };
    Err(Error::unsupported(format!("SQL only reads, and {what} does not; use {instead}")))
}

/// Returns the tables that the search functions of `statement` name. They are pinned before planning, because a table
/// function is planned without `async`.
///
/// # Errors
/// `Unsupported` for a clause after a table's name that the planner would ignore.
pub(crate) fn searched_tables(statement: &Statement) -> Result<Vec<String>> {
    let mut searched = Searched::default();
    let mut statement = statement;
    while let Statement::Explain(explain) = statement {
        statement = &explain.statement;
    }
    if let Statement::Statement(ast) = statement
        && let ControlFlow::Break(clause) = ast.visit(&mut searched)
    {
        return Err(Error::unsupported(format!("SQL has no {clause}; leave it out")));
    }
    Ok(searched.tables)
}

#[derive(Default)]
struct Searched {
    tables: Vec<String>,
}

impl Visitor for Searched {
    type Break = &'static str;

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<&'static str> {
        match factor {
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                return ControlFlow::Break("TABLESAMPLE");
            }
            TableFactor::Table { version: Some(_), .. } => return ControlFlow::Break("AS OF after a table"),
            TableFactor::Table { with_hints, index_hints, partitions, .. }
                if !(with_hints.is_empty() && index_hints.is_empty() && partitions.is_empty()) =>
            {
                return ControlFlow::Break("hints or partitions after a table");
            }
            _ => {}
        }
        if let TableFactor::Table { name, args: Some(args), .. } = factor
            && is_search(&name.to_string().to_lowercase())
            && let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))) = args.args.first()
            && let Value::SingleQuotedString(table) = &value.value
        {
            self.tables.push(table.clone());
        }
        ControlFlow::Continue(())
    }
}
