//! A limit on how deep a statement nests, because the planner and the executor visit expressions by recursion.

use cenote_base::{Error, Result};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// Operators that a statement may chain, such as the `OR`s of `a OR b OR c`: each is one level of a tree. Brackets are
/// limited by the parser.
const OPERATORS_MAX: usize = 1000;

/// Stack of a thread that plans and runs statements, in bytes: 64 KiB per level of [`OPERATORS_MAX`]. Memory is only
/// used as deep as a statement goes.
pub(crate) const STACK_BYTES: usize = OPERATORS_MAX * (64 << 10);

/// The operators of the innermost bracket that is open.
#[derive(Default)]
struct Level {
    /// Operators of expressions since the last comma.
    of_values: usize,
    /// Joins and set operations.
    of_tables: usize,
    /// Whether a comma joins tables.
    is_from: bool,
}

/// Checks that `text` chains no more operators than the threads have stack for. Text that is not SQL passes.
///
/// # Errors
/// `InvalidInput` for more than [`OPERATORS_MAX`].
pub(crate) fn check(text: &str, dialect: &dyn Dialect) -> Result<()> {
    let Ok(tokens) = Tokenizer::new(dialect, text).tokenize() else { return Ok(()) };
    let mut levels = vec![Level::default()];
    for token in tokens {
        let Some(level) = levels.last_mut() else { break };
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => levels.push(Level::default()),
            Token::RParen | Token::RBracket | Token::RBrace => drop(levels.pop()),
            Token::Comma if level.is_from => level.of_tables += 1,
            Token::Comma => level.of_values = 0,
            Token::Word(word) => match word.keyword {
                Keyword::AND | Keyword::OR | Keyword::XOR | Keyword::NOT | Keyword::IS | Keyword::LIKE => {
                    level.of_values += 1;
                }
                Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::JOIN => level.of_tables += 1,
                Keyword::FROM => level.is_from = true,
                Keyword::SELECT | Keyword::WHERE | Keyword::GROUP | Keyword::HAVING | Keyword::ORDER => {
                    level.is_from = false;
                    level.of_values = 0;
                }
                _ => {}
            },
            Token::Whitespace(_) | Token::Number(..) | Token::SingleQuotedString(_) | Token::Period => {}
            _ => level.of_values += 1,
        }
        if levels.iter().map(|level| level.of_values + level.of_tables).sum::<usize>() > OPERATORS_MAX {
            return Err(Error::invalid_input(format!(
                "the statement chains more than {OPERATORS_MAX} operators, such as AND, OR and +; compare with many \
                 values by `column IN (…)`"
            )));
        }
    }
    Ok(())
}
