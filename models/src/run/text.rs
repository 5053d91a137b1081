//! Sentence encoders: from a text to a vector of unit length.

use std::sync::Arc;

use cenote_base::{Error, Result};

use super::model::{Model, Tensor};
use super::tokenizer::Tokenizer;
use crate::files::manifest::Manifest;

/// A sentence encoder: it tokenises a text, runs the model, averages over the tokens and normalises.
///
/// Texts run one at a time and without padding. A model with dynamic int8 quantisation chooses one scale for a whole
/// activation tensor, so in a batch each text's vector would depend on the texts beside it, and a row derived again
/// could differ from the row derived first. Running one at a time costs little, because a short text is not padded.
pub struct TextEncoder {
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    dimensions: usize,
}

impl TextEncoder {
    /// Makes an encoder over `model`, which takes `input_ids`, `attention_mask` and `token_type_ids` and whose first
    /// output is one vector per token.
    ///
    /// # Errors
    /// `InvalidInput` when the manifest does not give the length of the vectors.
    pub fn new(model: Arc<Model>, tokenizer: Arc<Tokenizer>) -> Result<Self> {
        let dimensions = Self::dimensions_of(model.manifest())?;
        Ok(Self { model, tokenizer, dimensions })
    }

    /// Returns the length of the vectors of a model with this manifest, without loading it.
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

    /// Returns the length of the vectors.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Computes the vector of `text`, of unit length.
    ///
    /// # Errors
    /// Those of running the model, which do not depend on the text.
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
        // The sum is a multiple of the average, so both have the same vector of unit length.
        let length = mean.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        mean.iter_mut().for_each(|value| *value /= length);
        Ok(mean)
    }
}
