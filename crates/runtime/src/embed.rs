//! Query vectors: one text or one picture, embedded.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, LargeBinaryArray, StringArray};
use arrow::datatypes::{DataType, Float32Type};
use cenote_base::{Error, Result};
use cenote_operator::{BoundOperator, OperatorSpec, Output, Rows};
use cenote_scheduler::WorkOptions;

use crate::lake::Lake;

impl Lake {
    /// Embeds `text` with the operator `embed_text`, as a vector of unit length.
    pub async fn embed_text(&self, text: &str) -> Result<Vec<f32>> {
        self.embed(OperatorSpec::new("embed_text"), Arc::new(StringArray::from(vec![text]))).await
    }

    /// Embeds an encoded picture with the operator `embed_image`, as a vector of `dimensions` numbers: 384 in the space
    /// that pictures share with texts, 1,280 for image features.
    ///
    /// # Errors
    /// `InvalidInput` when no space has `dimensions` numbers, or the picture cannot be decoded.
    pub async fn embed_image(&self, picture: &[u8], dimensions: usize) -> Result<Vec<f32>> {
        let mut known = Vec::new();
        for space in ["text", "features"] {
            let spec = OperatorSpec::new("embed_image").with("space", space);
            let operator = self.registry().bind(&spec)?;
            let DataType::FixedSizeList(_, width) = operator.outputs()[0].data_type() else { continue };
            if *width as usize == dimensions {
                return self.embed(spec, Arc::new(LargeBinaryArray::from(vec![picture]))).await;
            }
            known.push(width.to_string());
        }
        let known = known.join(" and ");
        Err(Error::invalid_input(format!("no image embedding has {dimensions} numbers; there are {known}")))
    }

    async fn embed(&self, spec: OperatorSpec, input: ArrayRef) -> Result<Vec<f32>> {
        let operator: BoundOperator = self.registry().bind(&spec)?;
        let work = WorkOptions::new(spec.name.clone()).resources(operator.resources());
        let output: Output = self
            .scheduler()
            .run(&work, move |_| operator.worker()?.process(&Rows::new(std::slice::from_ref(&input))))
            .await?;
        if let Some(error) = output.errors.first() {
            return Err(Error::invalid_input(error.reason.clone()));
        }
        let vector = output.columns.first().and_then(|column| column.as_fixed_size_list_opt());
        let vector = vector.filter(|vector| vector.len() == 1 && vector.is_valid(0));
        let vector = vector.ok_or_else(|| Error::internal(format!("`{}` gave no vector", spec.name)))?;
        Ok(vector.value(0).as_primitive::<Float32Type>().values().to_vec())
    }
}
