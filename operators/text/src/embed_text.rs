//! `embed_text`: a text as a vector of unit length, near the vectors of texts of similar meaning.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListBuilder, Float32Builder, cast::AsArray};
use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, Result};
use cenote_models::{ModelRegistry, TextEncoder};
use cenote_operator::{Definition, Operator, Output, ParamType, Params, Port, PortType, Rows, Worker};

pub(crate) fn definition(models: Arc<ModelRegistry>) -> Definition {
    let summary = "Vector of unit length by a sentence model; texts of similar meaning have near vectors";
    Definition::new("embed_text", 1, summary, move |params| EmbedText::bind(Arc::clone(&models), params))
        .input(Port::new("text", PortType::Text))
        .param(
            "model",
            ParamType::Text,
            "minilm",
            "The sentence model; `minilm` gives 384 numbers and works best for English",
        )
        .param("max_tokens", ParamType::Unsigned, 256, "Tokens read of each text, from 3 to 512; the rest is ignored")
}

struct EmbedText {
    models: Arc<ModelRegistry>,
    model: String,
    model_hash: String,
    tokens_max: usize,
    dimensions: i32,
    outputs: Vec<Field>,
}

impl EmbedText {
    /// Reads the manifest only. The model is fetched and loaded when the first worker starts.
    fn bind(models: Arc<ModelRegistry>, params: &Params) -> Result<Box<dyn Operator>> {
        let model = params.text("model")?.to_owned();
        let tokens_max = params.unsigned_in("max_tokens", 3..=512)? as usize;
        let manifest = models.manifest(&model)?;
        // A model without a tokenizer is not a sentence model: refuse it before anything is fetched.
        if !manifest.files.contains_key("tokenizer") {
            return Err(Error::invalid_input(format!("model `{model}` has no tokenizer: it is not a sentence model")));
        }
        let dimensions = TextEncoder::dimensions_of(manifest)?;
        let dimensions = i32::try_from(dimensions)
            .map_err(|_| Error::invalid_input(format!("vectors of {dimensions} numbers are too long")))?;
        let item = Arc::new(Field::new_list_field(DataType::Float32, true));
        let outputs = vec![Field::new("embedding", DataType::FixedSizeList(item, dimensions), true)];
        let model_hash = models.model_hash(&model)?;
        Ok(Box::new(Self { models, model, model_hash, tokens_max, dimensions, outputs }))
    }
}

impl Operator for EmbedText {
    fn outputs(&self) -> &[Field] {
        &self.outputs
    }

    fn worker(&self) -> Result<Box<dyn Worker>> {
        let encoder = self.models.text_encoder(&self.model, self.tokens_max)?;
        Ok(Box::new(EmbedTextWorker { encoder, dimensions: self.dimensions }))
    }

    fn model_hash(&self) -> Option<&str> {
        Some(&self.model_hash)
    }
}

struct EmbedTextWorker {
    encoder: TextEncoder,
    dimensions: i32,
}

impl Worker for EmbedTextWorker {
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        let values = Float32Builder::with_capacity(rows.len() * self.encoder.dimensions());
        let mut vectors = FixedSizeListBuilder::with_capacity(values, self.dimensions, rows.len());
        for text in rows.column(0).as_string::<i32>() {
            rows.check()?;
            match text {
                Some(text) => vectors.values().append_slice(&self.encoder.embed(text)?),
                None => vectors.values().append_nulls(self.encoder.dimensions()),
            }
            vectors.append(text.is_some());
        }
        Ok(vec![Arc::new(vectors.finish()) as ArrayRef].into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::StringArray;
    use cenote_models::ModelOptions;
    use cenote_operator::{BoundOperator, OperatorSpec, Registry, conformance};

    use super::*;

    fn bind(spec: &OperatorSpec) -> Result<BoundOperator> {
        let mut registry = Registry::default();
        registry.register(definition(Arc::new(ModelRegistry::new(ModelOptions::default())?)));
        registry.bind(spec)
    }

    #[test]
    fn passes_the_conformance_suite_with_texts_of_all_lengths() {
        let long = "a long text about lakes ".repeat(200);
        let texts = ["A man is eating food.", "", "short", "Wie spät ist es?", &long, "🦀", " \n\t "];
        let good: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        conformance::check(&bind(&OperatorSpec::new("embed_text")).unwrap(), &[good], &[]).unwrap();
    }

    #[test]
    fn the_fingerprint_follows_model_and_parameters() {
        let print = |spec: OperatorSpec| bind(&spec).unwrap().fingerprint(&[]);
        let spec = OperatorSpec::new("embed_text");
        assert_eq!(print(spec.clone()), print(spec.clone().with("max_tokens", 256)));
        assert_ne!(print(spec.clone()), print(spec.clone().with("max_tokens", 128)));
    }

    #[test]
    fn parameters_that_cannot_work_are_refused_when_bound() {
        for (name, value, expect) in [
            ("model", serde_json::json!("minilmm"), "did you mean `minilm`?"),
            ("model", serde_json::json!("efficientnet_lite0"), "it is not a sentence model"),
            ("max_tokens", serde_json::json!(2), "must be from 3 to 512, found 2"),
        ] {
            let error = bind(&OperatorSpec::new("embed_text").with(name, value)).err().unwrap();
            assert!(error.message().contains(expect), "{error}");
        }
    }
}
