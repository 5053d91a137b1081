#![allow(clippy::unwrap_used, clippy::print_stderr)]
use std::time::Instant;

use arrow::datatypes::UInt8Type;
use cenote_operator::{OperatorSpec, Registry, conformance};
use image::{Rgb, RgbImage};

use super::*;
use crate::testing;

fn resized(fit: &str, width: u32, height: u32, rows: &[&[u8]]) -> Vec<RgbImage> {
    let spec = OperatorSpec::new("resize_image").with("fit", fit).with("width", width).with("height", height);
    let output = testing::run(&testing::bind(definition(), &spec), rows);
    assert_eq!(output.errors, []);
    let list = output.columns[0].as_fixed_size_list();
    (0..rows.len())
        .map(|row| list.value(row).as_primitive::<UInt8Type>().values().to_vec())
        .map(|pixels| RgbImage::from_raw(width, height, pixels).unwrap())
        .collect()
}

#[test]
fn conforms() {
    let spec = OperatorSpec::new("resize_image").with("width", 24).with("height", 16);
    let (good, bad) = (testing::readable(), testing::unreadable());
    let operator = testing::bind(definition(), &spec);
    let (good, bad) = (testing::column(&testing::slices(&good)), testing::column(&testing::slices(&bad)));
    conformance::check(&operator, &[good], &[bad]).unwrap();
}

#[test]
fn a_picture_fits_in_three_ways() {
    // Left half red, right half blue, twice as wide as high.
    let wide = RgbImage::from_fn(80, 40, |x, _| if x < 40 { Rgb([250, 0, 0]) } else { Rgb([0, 0, 250]) });
    let bytes = testing::encode(wide, image::ImageFormat::Png);
    let at = |image: &RgbImage, x, y| image.get_pixel(x, y).0;
    let stretched = &resized("stretch", 20, 20, &[&bytes])[0];
    assert_eq!((at(stretched, 2, 2), at(stretched, 17, 17)), ([250, 0, 0], [0, 0, 250]));
    let contained = &resized("contain", 20, 20, &[&bytes])[0];
    assert_eq!((at(contained, 2, 2), at(contained, 2, 10), at(contained, 17, 10)), ([0; 3], [250, 0, 0], [0, 0, 250]));
    assert_eq!((at(contained, 10, 4), at(contained, 2, 5)), ([0; 3], [250, 0, 0]), "centred");
    let tricolour =
        RgbImage::from_fn(80, 40, |x, _| if (20..60).contains(&x) { Rgb([0, 250, 0]) } else { Rgb([9; 3]) });
    let covered = &resized("cover", 20, 20, &[&testing::encode(tricolour, image::ImageFormat::Png)])[0];
    assert_eq!((at(covered, 1, 1), at(covered, 18, 18)), ([0, 250, 0], [0, 250, 0]), "the sides are cut off");
}

#[test]
fn a_device_agrees_within_a_grey_level() {
    let info = cenote_device::devices().into_iter().find(|info| info.kind == cenote_device::DeviceKind::Software);
    let device = Device::open(&info.expect("Mesa's software Vulkan"), 256 << 20).unwrap();
    let scene = testing::scene(300, 200);
    let large = testing::encode(testing::scene(900, 700), image::ImageFormat::Png);
    let files = [testing::jpeg(&scene, 90), testing::encode(scene, image::ImageFormat::Png), vec![1, 2, 3], large];
    let rows: Vec<Option<&[u8]>> = files.iter().map(|file| Some(file.as_slice())).chain([None]).collect();
    let rows: ArrayRef = Arc::new(LargeBinaryArray::from(rows));
    for fit in ["stretch", "cover", "contain"] {
        for (width, height) in [(224, 224), (61, 97), (1, 3)] {
            let spec = OperatorSpec::new("resize_image").with("fit", fit).with("width", width).with("height", height);
            let operator = testing::bind(definition(), &spec);
            let kernel = operator.kernel().unwrap();
            let prepared = (kernel.preparer)().unwrap().process(&Rows::new(&[Arc::clone(&rows)])).unwrap();
            assert_eq!(prepared.errors.iter().map(|error| error.row).collect::<Vec<_>>(), [2]);
            let input = kernel.batch(prepared.columns).unwrap();
            let (cpu, gpu) = (on_cpu(&input).unwrap(), on_device(&device, &input).unwrap());
            assert_eq!((cpu.schema(), cpu.num_rows(), cpu.column(0).null_count()), (gpu.schema(), 5, 2));
            let [cpu, gpu] = [cpu, gpu].map(|batch| {
                batch.column(0).as_fixed_size_list().values().as_primitive::<UInt8Type>().values().to_vec()
            });
            let off = cpu.iter().zip(&gpu).map(|(cpu, gpu)| cpu.abs_diff(*gpu)).max();
            assert!(off <= Some(1), "{fit} {width} × {height}: {off:?}");
            assert!(cpu.iter().any(|level| *level > 0));
        }
    }
}

#[test]
fn a_jpeg_is_resized_as_its_full_decode_would_be() {
    let scene = testing::scene(640, 480);
    let bytes = testing::jpeg(&scene, 95);
    let lossless = testing::encode(scene, image::ImageFormat::Png);
    let pair = resized("stretch", 224, 224, &[&bytes, &lossless]);
    let sum: u64 = pair[0].as_raw().iter().zip(pair[1].as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    assert!((sum as f64) / (pair[0].as_raw().len() as f64) < 3.0);
}

#[test]
fn wrong_parameters_are_refused() {
    let mut registry = Registry::default();
    registry.register(definition());
    for spec in [("width", 0), ("height", 10_000)] {
        assert!(registry.bind(&OperatorSpec::new("resize_image").with(spec.0, spec.1)).is_err());
    }
    assert!(registry.bind(&OperatorSpec::new("resize_image").with("fit", "crop")).is_err());
}

/// Prints the rate; run with `--no-capture`. Fails only when far too slow, because the machine may be busy.
#[test]
fn photographs_are_resized_fast() {
    let mut scene = testing::scene(640, 480);
    let mut random = cenote_base::Random::new(1);
    for value in scene.iter_mut() {
        *value = value.saturating_add((random.next_u64() % 12) as u8);
    }
    let bytes = testing::jpeg(&scene, 85);
    let rows = vec![bytes.as_slice(); 64];
    let operator = testing::bind(definition(), &OperatorSpec::new("resize_image"));
    let mut worker = operator.worker().unwrap();
    let columns = [testing::column(&rows)];
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            worker.process(&Rows::new(&columns)).unwrap();
            start.elapsed()
        })
        .min()
        .unwrap();
    let rate = rows.len() as f64 / best.as_secs_f64();
    eprintln!("{rate:.0} images a second of {} bytes", bytes.len());
    assert!(rate > 100.0, "{rate:.0} images a second");
}
