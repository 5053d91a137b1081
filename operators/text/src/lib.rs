//! Operators over text: decoding, cutting into pieces, counting, embedding.

use std::sync::Arc;

use cenote_models::ModelRegistry;
use cenote_operator::Registry;

mod chunk_text;
mod count_words;
mod decode_text;
mod embed_text;
mod entity;
mod html;
mod limit;

/// Adds every text operator to `registry`; those that run a model take it from `models`.
pub fn register(registry: &mut Registry, models: &Arc<ModelRegistry>) {
    registry.register(chunk_text::definition());
    registry.register(count_words::definition());
    registry.register(decode_text::definition());
    registry.register(embed_text::definition(Arc::clone(models)));
}
