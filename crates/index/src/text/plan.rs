//! The plan of a text query: its words as the tokenizer of an index reads them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cenote_base::Result;
use cenote_store::lance_error;
use lance_index::scalar::inverted::query::{MatchQuery, Tokens, try_collect_query_tokens};
use lance_index::scalar::inverted::tokenizer::document_tokenizer::{DocType, LanceTokenizer};

use super::parse::{ClauseGroup, EDITS_MAX, ParsedQuery, WordRule};

/// A condition on rows, which refers to the terms, phrases and fuzzy words of a plan by their positions.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Any or all of some terms.
    Words(Vec<usize>, WordRule),
    /// A phrase.
    Phrase(usize),
    /// Any word that a fuzzy word stands for.
    Fuzzy(usize),
    Group(ClauseGroup<Self>),
}

/// A fuzzy word, as the index would hold it, and the most letters in which another word may differ.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FuzzyWord {
    pub(super) term: String,
    pub(super) edits: u32,
}

/// A phrase: its words with their positions, and the places of those words among the terms of the plan.
pub(super) struct Phrase {
    pub(super) tokens: Arc<Tokens>,
    pub(super) terms: Vec<usize>,
}

/// A query whose words have been split and stemmed by the tokenizer of an index.
pub(super) struct TextPlan {
    pub(super) root: Node,
    /// The exact words, each once.
    pub(super) terms: Vec<String>,
    pub(super) phrases: Vec<Phrase>,
    pub(super) fuzzy: Vec<FuzzyWord>,
    pub(super) token_type: DocType,
}

impl TextPlan {
    /// Plans `query` with `tokenizer`; `None` when it has stop words only.
    pub(super) fn read(
        query: &ParsedQuery,
        rule: WordRule,
        tokenizer: &mut Box<dyn LanceTokenizer>,
    ) -> Result<Option<Self>> {
        let token_type = tokenizer.doc_type();
        let mut reader = PlanReader { rule, tokenizer, terms: HashMap::new(), phrases: Vec::new(), fuzzy: Vec::new() };
        let Some(root) = reader.read(query)? else { return Ok(None) };
        let PlanReader { terms, phrases, fuzzy, .. } = reader;
        let mut terms: Vec<(usize, String)> = terms.into_iter().map(|(term, at)| (at, term)).collect();
        terms.sort_unstable();
        let terms = terms.into_iter().map(|(_, term)| term).collect();
        Ok(Some(Self { root, terms, phrases, fuzzy, token_type }))
    }

    /// Returns `words`, each once, as Lance takes them.
    pub(super) fn tokens<'a>(&self, words: impl Iterator<Item = &'a String>) -> Arc<Tokens> {
        Arc::new(Tokens::new(words.cloned().collect(), self.token_type.clone()))
    }
}

/// A plan in the making.
struct PlanReader<'a> {
    rule: WordRule,
    tokenizer: &'a mut Box<dyn LanceTokenizer>,
    terms: HashMap<String, usize>,
    phrases: Vec<Phrase>,
    fuzzy: Vec<FuzzyWord>,
}

impl PlanReader<'_> {
    fn read(&mut self, query: &ParsedQuery) -> Result<Option<Node>> {
        Ok(match query {
            ParsedQuery::Words(text) => {
                let tokens = self.tokens(text)?;
                words(self.terms_of(&tokens), self.rule)
            }
            ParsedQuery::Phrase(text) => {
                let tokens = self.tokens(text)?;
                let terms = self.terms_of(&tokens);
                (!terms.is_empty()).then(|| {
                    self.phrases.push(Phrase { tokens: Arc::new(tokens), terms });
                    Node::Phrase(self.phrases.len() - 1)
                })
            }
            ParsedQuery::Fuzzy(text, edits) => {
                let tokens = self.tokens(text)?;
                let parts = tokens.into_iter().map(|term| self.fuzzy(term, *edits)).collect();
                group(match self.rule {
                    WordRule::AnyWord => ClauseGroup { should: parts, ..ClauseGroup::default() },
                    WordRule::AllWords => ClauseGroup { must: parts, ..ClauseGroup::default() },
                })
            }
            ParsedQuery::Group(written) => group(ClauseGroup {
                must: self.read_all(&written.must, WordRule::AllWords)?,
                should: self.read_all(&written.should, WordRule::AnyWord)?,
                must_not: self.read_all(&written.must_not, WordRule::AnyWord)?,
            }),
        })
    }

    /// Plans `parts`, which are joined by `rule`. Words that are joined by the same rule become one node, each once.
    fn read_all(&mut self, parts: &[ParsedQuery], rule: WordRule) -> Result<Vec<Node>> {
        let (mut terms, mut others) = (Vec::new(), Vec::new());
        for part in parts {
            match (part, self.read(part)?) {
                (_, None) => {}
                (ParsedQuery::Words(_), Some(Node::Words(more, own))) if own == rule || more.len() == 1 => {
                    terms.extend(more)
                }
                (_, Some(other)) => others.push(other),
            }
        }
        Ok(words(terms, rule).into_iter().chain(others).collect())
    }

    fn tokens(&mut self, text: &str) -> Result<Tokens> {
        try_collect_query_tokens(text, self.tokenizer).map_err(lance_error)
    }

    fn terms_of(&mut self, tokens: &Tokens) -> Vec<usize> {
        tokens.into_iter().map(|word| self.term(word)).collect()
    }

    fn term(&mut self, word: &str) -> usize {
        let next = self.terms.len();
        *self.terms.entry(word.to_owned()).or_insert(next)
    }

    fn fuzzy(&mut self, term: String, edits: Option<u32>) -> Node {
        let edits = edits.unwrap_or_else(|| MatchQuery::auto_fuzziness(&term)).min(EDITS_MAX);
        // A word of one letter has no similar words: they would have no letter in common.
        if edits == 0 || term.chars().nth(1).is_none() {
            return Node::Words(vec![self.term(&term)], self.rule);
        }
        self.fuzzy.push(FuzzyWord { term, edits });
        Node::Fuzzy(self.fuzzy.len() - 1)
    }
}

/// Makes a node of a group; `None` if nothing is left to find.
fn group(ClauseGroup { mut must, mut should, must_not }: ClauseGroup<Node>) -> Option<Node> {
    match (must.len(), should.len(), must_not.is_empty()) {
        (0, 0, _) => None,
        (1, 0, true) => must.pop(),
        (0, 1, true) => should.pop(),
        _ => Some(Node::Group(ClauseGroup { must, should, must_not })),
    }
}

/// Makes a node of `terms`, each once; `None` if there are none.
fn words(mut terms: Vec<usize>, rule: WordRule) -> Option<Node> {
    let mut known = HashSet::new();
    terms.retain(|term| known.insert(*term));
    (!terms.is_empty()).then_some(Node::Words(terms, rule))
}
