//! The statements about indexes: `CREATE INDEX`, `DROP INDEX` and `SHOW INDEXES`.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use cenote_base::{Error, Result};
use cenote_index::{IndexInfo, IndexKind, IndexSpec, Indexes};
use cenote_store::{Store, arrow_error};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Ident, ObjectType, Statement as Ast, Value};

/// A statement about indexes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum IndexStatement {
    /// `CREATE INDEX [name] ON table [USING kind] (column) [WITH (option = value, ..)]`; the default kind is `btree`.
    Create { table: String, spec: IndexSpec, if_not_exists: bool },
    /// `DROP INDEX name ON table`.
    Drop { table: String, name: String, if_exists: bool },
    /// `SHOW INDEXES FROM table`.
    Show { table: String },
}

impl IndexStatement {
    /// Reads `statement`; `None` when it is not about indexes.
    ///
    /// # Errors
    /// `InvalidInput` or `Unsupported` for one about indexes that is incomplete or asks for what no index has.
    pub(crate) fn read(statement: &Statement) -> Result<Option<Self>> {
        let Statement::Statement(ast) = statement else { return Ok(None) };
        let wrong = |what: &str| Error::invalid_input(format!("{what}; write {USAGE}"));
        match ast.as_ref() {
            Ast::CreateIndex(create) => {
                let [column] = create.columns.as_slice() else { return Err(wrong("an index covers one column")) };
                let column = match &column.column.expr {
                    Expr::Identifier(column) => name_of(column),
                    other => return Err(wrong(&format!("`{other}` is not a column"))),
                };
                if create.unique || create.predicate.is_some() || !create.include.is_empty() {
                    let what = "an index here is not UNIQUE, has no WHERE and no INCLUDE";
                    return Err(Error::unsupported(format!("{what}; write {USAGE}")));
                }
                let kind = create.using.as_ref().map_or_else(|| "btree".to_owned(), ToString::to_string);
                let options = create
                    .with
                    .iter()
                    .map(|option| read_option(option).ok_or_else(|| wrong(&format!("`{option}` is not an option"))));
                let options = options.collect::<Result<Vec<_>>>()?;
                let options = options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                let mut spec = IndexSpec::new(column, IndexKind::parse(&kind, options)?);
                spec.name = create.name.as_ref().map(object_name);
                let table = object_name(&create.table_name);
                Ok(Some(Self::Create { table, spec, if_not_exists: create.if_not_exists }))
            }
            Ast::Drop { object_type: ObjectType::Index, if_exists, names, table, .. } => {
                let ([name], Some(table)) = (names.as_slice(), table) else {
                    return Err(wrong("name the index and its table"));
                };
                Ok(Some(Self::Drop { table: object_name(table), name: object_name(name), if_exists: *if_exists }))
            }
            Ast::ShowVariable { variable } => match variable.as_slice() {
                [indexes, from, table] if is_word(indexes, "indexes") && is_word(from, "from") => {
                    Ok(Some(Self::Show { table: name_of(table) }))
                }
                [indexes, ..] if is_word(indexes, "indexes") => Err(wrong("name the table")),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Runs the statement. Returns a row for the index that it created or dropped, or for each of the table's indexes.
    pub(crate) async fn run(&self, store: &Store, indexes: &Indexes) -> Result<RecordBatch> {
        let (Self::Create { table, .. } | Self::Drop { table, .. } | Self::Show { table }) = self;
        let table = store.table(table).await?;
        let listed = indexes.list(&table.snapshot().await?).await?;
        let upkeep = table.upkeep().await?.failure;
        let rows = |indexes: &[IndexInfo]| rows(indexes, upkeep.as_deref());
        let named = |name: &str| listed.iter().filter(|index| index.name == name).cloned().collect::<Vec<_>>();
        match self {
            Self::Show { .. } => rows(&listed),
            Self::Create { spec, if_not_exists, .. } => match named(&spec.effective_name()) {
                known if *if_not_exists && !known.is_empty() => rows(&known),
                _ => rows(&[Box::pin(indexes.create(&table, spec)).await?]),
            },
            Self::Drop { name, if_exists, .. } => match named(name) {
                none if *if_exists && none.is_empty() => rows(&none),
                known => {
                    Box::pin(indexes.remove(&table, name)).await?;
                    rows(&known)
                }
            },
        }
    }
}

const USAGE: &str = "CREATE INDEX [name] ON table [USING kind] (column) [WITH (option = value)], \
                     DROP INDEX name ON table, or SHOW INDEXES FROM table";

fn read_option(option: &Expr) -> Option<(String, String)> {
    let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = option else { return None };
    let (Expr::Identifier(name), Expr::Value(value)) = (left.as_ref(), right.as_ref()) else { return None };
    let value = match &value.value {
        Value::SingleQuotedString(text) => text.clone(),
        other => other.to_string(),
    };
    Some((name_of(name), value))
}

fn is_word(ident: &Ident, word: &str) -> bool {
    ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case(word)
}

/// Returns the name as SQL means it: in lower case unless it is quoted.
fn name_of(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn object_name(name: &datafusion::sql::sqlparser::ast::ObjectName) -> String {
    let last = name.0.last().and_then(|part| part.as_ident());
    last.map_or_else(|| name.to_string(), name_of)
}

/// Lists `indexes`, one row each; `upkeep` is the last failure of the table's upkeep.
fn rows(indexes: &[IndexInfo], upkeep: Option<&str>) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&IndexInfo) -> Option<String>| {
        Arc::new(indexes.iter().map(of).collect::<StringArray>()) as ArrayRef
    };
    let count =
        |of: &dyn Fn(&IndexInfo) -> u64| Arc::new(UInt64Array::from_iter_values(indexes.iter().map(of))) as ArrayRef;
    let columns = [
        ("name", text(&|index| Some(index.name.clone()))),
        ("column", text(&|index| Some(index.column.clone()))),
        ("kind", text(&|index| Some(index.kind.to_string()))),
        ("structure", text(&|index| Some(index.structure.clone()))),
        ("metric", text(&|index| index.metric.map(|metric| metric.to_string()))),
        ("rows_indexed", count(&|index| index.rows_indexed as u64)),
        ("rows_unindexed", count(&|index| index.rows_unindexed as u64)),
        ("recall", text(&|index| index.measured.map(|measured| format!("{:.3}", measured.recall)))),
        ("memory_bytes", Arc::new(indexes.iter().map(|index| index.memory_bytes).collect::<UInt64Array>())),
        ("failure", text(&|index| index.trouble(upkeep).map(str::to_owned))),
    ];
    let is_nullable = |name: &str| matches!(name, "metric" | "recall" | "memory_bytes" | "failure");
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, is_nullable(name))))
        .map_err(arrow_error)
}
