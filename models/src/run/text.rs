//! A sentence encoder: text to a vector of unit length.

use std::sync::Arc;

use cenote_base::{Error, Result};

use super::model::{Model, Tensor};
use super::tokenizer::Tokenizer;
use crate::files::manifest::Manifest;

/// Turns texts into vectors of unit length: tokenise, run, average over the tokens, normalise.
///
/// Texts run one at a time and without padding. Models with dynamic int8 quantisation choose one scale for a whole
/// activation tensor, so that in a batch each text's vector would depend on the texts beside it, and a row derived again
/// would differ from the row derived first. One at a time costs little: a short text leaves no work for padding.
pub struct TextEncoder {
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    dimensions: usize,
}

impl TextEncoder {
    /// An encoder over `model`, which takes `input_ids`, `attention_mask` and `token_type_ids` and whose first output is
    /// one vector a token.
    ///
    /// # Errors
    /// `InvalidInput` when the manifest does not give the length of the vectors.
    pub fn new(model: Arc<Model>, tokenizer: Arc<Tokenizer>) -> Result<Self> {
        let dimensions = Self::dimensions_of(model.manifest())?;
        Ok(Self { model, tokenizer, dimensions })
    }

    /// The length of the vectors that a model with this manifest gives; nothing needs to be loaded.
    ///
    /// # Errors
    /// `InvalidInput` when the manifest does not say.
    pub fn dimensions_of(manifest: &Manifest) -> Result<usize> {
        let last = manifest.outputs.first().and_then(|output| output.shape.last());
        last.and_then(|size| size.parse().ok()).ok_or_else(|| {
            Error::invalid_input(format!(
                "the last size of the first output of model `{}` must be a number",
                manifest.name
            ))
        })
    }

    /// The length of the vectors.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The vector of `text`, of unit length.
    ///
    /// # Errors
    /// Whatever running the model meets; no text is to blame.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>> {
        let ids = self.tokenizer.encode(text)?.ids;
        let count = ids.len();
        let shape = vec![1, count];
        let inputs = [
            ("input_ids", Tensor::i64(shape.clone(), ids)?),
            ("attention_mask", Tensor::i64(shape.clone(), vec![1; count])?),
            ("token_type_ids", Tensor::i64(shape, vec![0; count])?),
        ];
        let name = &self.model.manifest().outputs[0].name;
        let outputs = self.model.run(inputs, &[name])?;
        let tokens = outputs[0].as_f32()?;
        if tokens.len() != count * self.dimensions {
            return Err(Error::internal(format!("`{name}` has shape {:?} for {count} tokens", outputs[0].shape)));
        }
        let mut mean = vec![0f32; self.dimensions];
        for token in tokens.chunks_exact(self.dimensions) {
            mean.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
        }
        // The average differs from the sum by a factor, which scaling to unit length takes out.
        let length = mean.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        mean.iter_mut().for_each(|value| *value /= length);
        Ok(mean)
    }
}
