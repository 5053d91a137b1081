//! A text query as an index reads it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cenote_base::Result;
use cenote_store::lance_error;
use lance_index::scalar::inverted::query::{MatchQuery, Tokens, try_collect_query_tokens};
use lance_index::scalar::inverted::tokenizer::document_tokenizer::{DocType, LanceTokenizer};

use super::parse::{EDITS_MAX, Group, ParsedQuery, WordRule};

/// What rows must fit, by the terms of an index.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// Any or all of these of the plan's terms.
    Words(Vec<usize>, WordRule),
    /// This one of the plan's phrases.
    Phrase(usize),
    /// This one of the plan's fuzzy words.
    Fuzzy(usize),
    Group(Group<Self>),
}

/// A fuzzy word: as the index would keep it, and in how many letters another may differ.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FuzzyWord {
    pub(crate) term: String,
    pub(crate) edits: u32,
}

/// A phrase: its words with their positions, and the indexes of those words among the terms of the plan.
pub(crate) struct Phrase {
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) terms: Vec<usize>,
}

/// A query whose words were read as an index reads them.
pub(crate) struct TextPlan {
    pub(crate) root: Node,
    /// The exact words, each once.
    pub(crate) terms: Vec<String>,
    pub(crate) phrases: Vec<Phrase>,
    pub(crate) fuzzy: Vec<FuzzyWord>,
    pub(crate) token_type: DocType,
}

impl TextPlan {
    /// Reads `query` by `tokenizer`; `None` when it has stop words only.
    pub(crate) fn read(
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

    /// What an index is to look for: `words`, each once.
    pub(crate) fn tokens<'a>(&self, words: impl Iterator<Item = &'a String>) -> Arc<Tokens> {
        Arc::new(Tokens::new(words.cloned().collect(), self.token_type.clone()))
    }
}

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
                    WordRule::AnyWord => Group { should: parts, ..Group::default() },
                    WordRule::AllWords => Group { must: parts, ..Group::default() },
                })
            }
            ParsedQuery::Group(written) => group(Group {
                must: self.read_all(&written.must, WordRule::AllWords)?,
                should: self.read_all(&written.should, WordRule::AnyWord)?,
                must_not: self.read_all(&written.must_not, WordRule::AnyWord)?,
            }),
        })
    }

    /// The words of `parts` that are joined as the parts are become one node, with each of them once.
    fn read_all(&mut self, parts: &[ParsedQuery], rule: WordRule) -> Result<Vec<Node>> {
        let (mut terms, mut others) = (Vec::new(), Vec::new());
        for part in parts {
            match (part, self.read(part)?) {
                (_, None) => {}
                (ParsedQuery::Words(_), Some(Node::Words(more, its))) if its == rule || more.len() == 1 => {
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
        // A word without a letter in common is not similar.
        if edits == 0 || term.chars().nth(1).is_none() {
            return Node::Words(vec![self.term(&term)], self.rule);
        }
        self.fuzzy.push(FuzzyWord { term, edits });
        Node::Fuzzy(self.fuzzy.len() - 1)
    }
}

/// `None`: nothing is left to find.
fn group(Group { mut must, mut should, must_not }: Group<Node>) -> Option<Node> {
    match (must.len(), should.len(), must_not.is_empty()) {
        (0, 0, _) => None,
        (1, 0, true) => must.pop(),
        (0, 1, true) => should.pop(),
        _ => Some(Node::Group(Group { must, should, must_not })),
    }
}

fn words(mut terms: Vec<usize>, rule: WordRule) -> Option<Node> {
    let mut known = HashSet::new();
    terms.retain(|term| known.insert(*term));
    (!terms.is_empty()).then_some(Node::Words(terms, rule))
}
