#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::LazyLock;

use arrow::datatypes::Float32Type;
use cenote_models::ModelOptions;
use cenote_operator::{BoundOperator, OperatorSpec, Registry, conformance};
use image::{ImageFormat, Rgb};

use super::*;
use crate::testing::FULL;

static MODELS: LazyLock<Arc<ModelRegistry>> =
    LazyLock::new(|| Arc::new(ModelRegistry::new(ModelOptions::default()).unwrap()));

fn bind(space: &str) -> Result<BoundOperator> {
    let mut registry = Registry::default();
    registry.register(definition(Arc::clone(&MODELS)));
    registry.bind(&OperatorSpec::new("embed_image").with("space", space))
}

fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7 % 256) as u8, (y * 3 % 256) as u8, ((x + y) % 256) as u8]))
}

fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture(width, height).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn passes_the_conformance_suite_in_both_spaces() {
    let files = [
        encoded(320, 200, ImageFormat::Jpeg),
        encoded(1, 1, ImageFormat::Png),
        encoded(7, 900, ImageFormat::Png),
        encoded(1200, 800, ImageFormat::Jpeg),
    ];
    let good: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values(files));
    let bad: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values([&b"no picture"[..], b"", b"\xff\xd8\xff\xe0"]));
    for (space, dimensions) in [("text", 384), ("features", 1280)] {
        let operator = bind(space).unwrap();
        conformance::check(&operator, &[Arc::clone(&good)], &[Arc::clone(&bad)]).unwrap();
        assert!(matches!(operator.outputs()[0].data_type(), DataType::FixedSizeList(_, d) if *d == dimensions));
    }
}

#[test]
fn pictures_at_once_give_what_each_gives_alone() {
    let files = [
        Some(encoded(320, 200, ImageFormat::Jpeg)),
        None,
        Some(encoded(64, 64, ImageFormat::Png)),
        Some(b"no picture".to_vec()),
        Some(encoded(300, 800, ImageFormat::Jpeg)),
        Some(encoded(90, 60, ImageFormat::Png)),
    ];
    let rows: ArrayRef = Arc::new(LargeBinaryArray::from_iter(files));
    let embed = |at_once: usize| {
        let (model, resizer) = (MODELS.model(MODEL).unwrap(), Resizer::new());
        let decoder = Decoder::default();
        let mut worker = EmbedImageWorker { model, decoder, resizer, output: "features", dimensions: 1280, at_once };
        worker.process(&Rows::new(&[Arc::clone(&rows)])).unwrap()
    };
    let alone = embed(1);
    for at_once in [2, 3, 32] {
        let output = embed(at_once);
        assert_eq!(output.errors, alone.errors);
        assert_eq!(output.columns[0].nulls(), alone.columns[0].nulls());
        for row in [0, 2, 4, 5] {
            let vector = |output: &Output| {
                output.columns[0].as_fixed_size_list().value(row).as_primitive::<Float32Type>().values().to_vec()
            };
            let (one, many) = (vector(&alone), vector(&output));
            let length = dot(&one, &one).sqrt();
            let off = one.iter().zip(&many).map(|(one, many)| (one - many).abs()).fold(0.0, f32::max);
            assert!(off <= 1e-4 * length, "row {row}, {at_once} at once: {off} of {length}");
        }
    }
}

#[test]
fn another_space_is_refused_with_the_two_there_are() {
    let error = bind("clip").err().unwrap();
    assert!(error.message().ends_with("must be `text` or `features`, found `clip`"), "{error}");
}

#[test]
fn the_middle_square_keeps_the_middle() {
    let mut picture = RgbImage::new(512, 256);
    picture.enumerate_pixels_mut().for_each(|(x, _, pixel)| pixel.0 = [if x < 256 { 0 } else { 255 }; 3]);
    let square = middle(&picture, &mut Resizer::new()).unwrap();
    let row = &square[..SIDE * 3];
    assert_eq!((row[0], row[3 * 100], row[3 * 123], row[3 * (SIDE - 1)]), (0, 0, 255, 255));
    let planes = planes(&[0, 127, 255]);
    assert_eq!(planes, [-127.0 / 128.0, 0.0, 1.0]);
}

/// Checks golden outputs, which were made with the reference weights at 16 bits. Their text space has a ridge head
/// beside ConSE.
#[test]
fn reference_outputs_are_near() {
    let assets = std::env::var_os("CENOTE_ASSETS").map_or_else(|| "../../../shared/assets".into(), PathBuf::from);
    let directory = assets.join("image-text-lite0");
    let Ok(text) = std::fs::read_to_string(directory.join("golden/golden.json")) else {
        println!("skipped: no golden outputs in {} (CENOTE_ASSETS names another directory)", directory.display());
        return;
    };
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let model = MODELS.model(MODEL).unwrap();
    for case in golden["image"].as_array().unwrap() {
        let file = case["png"].as_str().unwrap();
        let bytes = std::fs::read(directory.join(file)).unwrap();
        let square = Decoder::default().decode(&bytes, FULL).unwrap();
        let image = Tensor::f32(vec![1, 3, SIDE, SIDE], planes(&square)).unwrap();
        let outputs = model.run([("image", image)], &["features", "logits", "text_space"]).unwrap();
        let [features, logits, text] = outputs.iter().map(|t| t.as_f32().unwrap()).collect::<Vec<_>>()[..] else {
            panic!("three outputs");
        };
        let head: Vec<f32> = serde_json::from_value(case["features_head16"].clone()).unwrap();
        let furthest = head.iter().zip(features).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest < 0.01, "{file}: features differ by {furthest}");
        let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
        for class in case["top5"].as_array().unwrap() {
            let (index, expected) = (class[0].as_u64().unwrap() as usize, class[2].as_f64().unwrap() as f32);
            let found = logits[index].exp() / total;
            assert!((found - expected).abs() < 0.003, "{file}: class {index} has {found}, expected {expected}");
        }
        let reference: Vec<f32> = serde_json::from_value(case["text_space"].clone()).unwrap();
        assert!((dot(text, text) - 1.0).abs() < 1e-4);
        assert!(dot(text, &reference) > 0.85, "{file}: cosine {}", dot(text, &reference));
    }
}

#[test]
fn captions_find_their_pictures() {
    let assets = std::env::var_os("CENOTE_ASSETS").map_or_else(|| "../../../shared/assets".into(), PathBuf::from);
    let directory = assets.join("image-text-lite0/golden");
    let Ok(reader) = std::fs::read_dir(&directory) else {
        println!("skipped: no pictures in {} (CENOTE_ASSETS names another directory)", directory.display());
        return;
    };
    let mut files: Vec<_> = reader.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "png"));
    files.sort();
    let bytes = LargeBinaryArray::from_iter_values(files.iter().map(|path| std::fs::read(path).unwrap()));
    let input: ArrayRef = Arc::new(bytes);
    let output = bind("text").unwrap().worker().unwrap().process(&Rows::new(&[input])).unwrap();
    let vectors = output.columns[0].as_fixed_size_list();
    let query = MODELS.text_encoder("minilm", 256).unwrap().embed("a baseball player throws the ball").unwrap();
    let score = |row: usize| {
        let vector = vectors.value(row);
        dot(&query, vector.as_primitive::<arrow::datatypes::Float32Type>().values())
    };
    let best = (0..files.len()).max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap();
    assert!(files[best].ends_with("000000000872_224.png"), "{}", files[best].display());
}
