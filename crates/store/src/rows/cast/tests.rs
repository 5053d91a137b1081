#![allow(clippy::unwrap_used)]

use arrow::array::{
    BinaryArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array, Int8Array, Int32Array, Int64Array,
    LargeListArray, ListArray, NullArray, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{Fields, Int8Type, Int32Type, Int64Type};
use cenote_base::ErrorKind;

use super::*;

const SECONDS: DataType = DataType::Timestamp(TimeUnit::Second, None);
const MICROS: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);
const NANOS: DataType = DataType::Timestamp(TimeUnit::Nanosecond, None);

fn array(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}

fn floats<const N: usize>(values: [f64; N]) -> ArrayRef {
    array(arrow::array::Float64Array::from(values.to_vec()))
}

fn ints<const N: usize>(values: [i64; N]) -> ArrayRef {
    array(Int64Array::from(values.to_vec()))
}

fn texts<const N: usize>(values: [&str; N]) -> ArrayRef {
    array(StringArray::from(values.to_vec()))
}

fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new_list_field(data_type, true))
}

fn vectors(width: i32, data_type: DataType) -> DataType {
    DataType::FixedSizeList(item(data_type), width)
}

#[track_caller]
fn taken(given: &ArrayRef, wanted: &DataType, expected: &ArrayRef) {
    let cast = exact(given, &Field::new("c", wanted.clone(), true)).unwrap();
    assert_eq!(&cast, expected);
    assert_eq!(cast.data_type(), wanted);
}

/// Checks that `given` is refused because of `row`, whose value is shown as `value`.
#[track_caller]
fn refused(given: &ArrayRef, wanted: &DataType, row: usize, value: &str) {
    let error = exact(given, &Field::new("c", wanted.clone(), true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let expected = format!("column `c` is {wanted} and cannot hold {value} of row {row} as it is");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn numbers_are_cast_only_where_they_stay_the_same() {
    taken(&floats([1.0, -0.0, -7.0]), &DataType::Int64, &ints([1, 0, -7]));
    refused(&floats([1.0, 2.0, 1.7]), &DataType::Int64, 2, "1.7");
    refused(&floats([f64::NAN]), &DataType::Int64, 0, "NaN");
    refused(&floats([0.0, 9_223_372_036_854_775_808.0]), &DataType::Int64, 1, "9.223372036854776e18");
    taken(&ints([1 << 53]), &DataType::Float64, &floats([9_007_199_254_740_992.0]));
    refused(&ints([0, (1 << 53) + 1]), &DataType::Float64, 1, "9007199254740993");
    refused(&ints([i64::MAX]), &DataType::Float64, 0, "9223372036854775807");
    refused(&ints([16_777_217]), &DataType::Float32, 0, "16777217");
    refused(&ints([1, 300]), &DataType::Int8, 1, "300");
    refused(&ints([-1]), &DataType::UInt64, 0, "-1");
    refused(&array(UInt64Array::from(vec![u64::MAX])), &DataType::Int64, 0, "18446744073709551615");
    refused(&ints([1, 0, 2]), &DataType::Boolean, 2, "2");
    let with_null = array(Int64Array::from(vec![Some(5), None]));
    taken(&with_null, &DataType::Int8, &array(Int8Array::from(vec![Some(5), None])));
    taken(&array(NullArray::new(2)), &DataType::Int64, &array(Int64Array::from(vec![None, None])));
}

#[test]
fn floats_are_rounded_into_narrower_ones_and_never_made_infinite() {
    let rounded = Float32Array::from(vec![0.1f32, f32::INFINITY, f32::NAN]);
    taken(&floats([0.1, f64::INFINITY, f64::NAN]), &DataType::Float32, &array(rounded));
    refused(&floats([0.1, 1e39]), &DataType::Float32, 1, "1e39");
    taken(&array(Float32Array::from(vec![0.1])), &DataType::Float64, &floats([f64::from(0.1f32)]));
}

#[test]
fn decimals_keep_every_digit() {
    let decimal =
        |values: Vec<i128>, scale| array(Decimal128Array::from(values).with_precision_and_scale(10, scale).unwrap());
    taken(&decimal(vec![150], 2), &DataType::Decimal128(10, 1), &decimal(vec![15], 1));
    refused(&decimal(vec![150, 151], 2), &DataType::Decimal128(10, 1), 1, "1.51");
    taken(&decimal(vec![300], 2), &DataType::Int64, &ints([3]));
    refused(&decimal(vec![300, 301], 2), &DataType::Int64, 1, "3.01");
    taken(&floats([0.1, 0.25]), &DataType::Decimal128(10, 2), &decimal(vec![10, 25], 2));
    refused(&floats([0.1, 0.125]), &DataType::Decimal128(10, 2), 1, "0.125");
    taken(&texts(["1.5", "0.250"]), &DataType::Decimal128(10, 2), &decimal(vec![150, 25], 2));
    refused(&texts(["1.5", "1.239"]), &DataType::Decimal128(10, 2), 1, "1.239");
}

#[test]
fn times_keep_their_moment() {
    let micros = |values: Vec<i64>| array(TimestampMicrosecondArray::from(values));
    taken(&micros(vec![2_000_000]), &SECONDS, &cast(&ints([2]), &SECONDS).unwrap());
    refused(&micros(vec![2_000_000, 2_000_001]), &SECONDS, 1, "1970-01-01T00:00:02.000001");
    refused(&micros(vec![i64::MAX / 1000 + 1]), &NANOS, 0, "2262-04-11T23:47:16.854776");
    taken(&micros(vec![86_400_000_000]), &DataType::Date32, &array(Date32Array::from(vec![1])));
    refused(&micros(vec![0, 5]), &DataType::Date32, 1, "1970-01-01T00:00:00.000005");
    taken(&array(Date32Array::from(vec![1])), &MICROS, &micros(vec![86_400_000_000]));
    refused(&array(Date32Array::from(vec![0, 2_000_000])), &NANOS, 1, "7445-10-25");
}

#[test]
fn text_is_taken_where_it_says_no_more_than_the_type_holds() {
    taken(&texts(["007", "-5"]), &DataType::Int64, &ints([7, -5]));
    refused(&texts(["7", "1.7"]), &DataType::Int64, 1, "1.7");
    refused(&texts(["large"]), &DataType::Int64, 0, "large");
    taken(&texts(["0.1", "1e3", "inf"]), &DataType::Float64, &floats([0.1, 1000.0, f64::INFINITY]));
    refused(&texts(["0.1", "1e400"]), &DataType::Float64, 1, "1e400");
    let seconds = cast(&ints([1_709_209_800]), &SECONDS).unwrap();
    for text in ["2024-02-29T12:30:00", "2024-02-29 12:30:00.000", "2024-02-29T12:30:00Z"] {
        taken(&texts([text]), &SECONDS, &seconds);
    }
    refused(&texts(["2024-02-29T12:30:00.5"]), &SECONDS, 0, "2024-02-29T12:30:00.5");
    refused(&texts(["2024-02-29", "2024-02-29T12:30:00"]), &DataType::Date32, 1, "2024-02-29T12:30:00");
    // Beyond the range of nanoseconds.
    taken(&texts(["1066-10-14"]), &DataType::Date32, &array(Date32Array::from(vec![-329_893])));
    taken(&ints([12]), &DataType::Utf8, &texts(["12"]));
    refused(&array(BinaryArray::from(vec![b"\xff".as_slice()])), &DataType::Utf8, 0, "ff");
    let long = "x".repeat(100);
    refused(&texts([&long]), &DataType::Int64, 0, &format!("{}…", &long[..60]));
}

#[test]
fn lists_and_structs_are_judged_by_what_is_in_them() {
    let lists = |values: Vec<Option<Vec<Option<i64>>>>| ListArray::from_iter_primitive::<Int64Type, _, _>(values);
    let pairs = vec![Some(vec![Some(1), None]), None, Some(vec![Some(3), Some(4)])];
    let narrow = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
        [Some(vec![Some(1), None]), None, Some(vec![Some(3), Some(4)])],
        2,
    );
    taken(&array(lists(pairs)), &vectors(2, DataType::Int32), &array(narrow));
    let wide = vec![Some(vec![Some(1)]), Some(vec![Some(2), Some(1 << 40)])];
    let large = DataType::LargeList(item(DataType::Int32));
    refused(&array(lists(wide.clone())), &large, 1, "[2, 1099511627776]");
    // A slice is judged without the rows around it.
    let around = array(lists(wide).slice(0, 1));
    let one = LargeListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)])]);
    taken(&around, &large, &array(one));
    let uneven = array(lists(vec![Some(vec![Some(1), Some(2)]), Some(vec![Some(3)])]));
    refused(&uneven, &vectors(2, DataType::Int64), 1, "[3]");

    // Vectors may be given as lists of any floats.
    let given = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(0.1), Some(0.2)])]);
    let vector = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>([Some(vec![Some(0.1), Some(0.2)])], 2);
    taken(&array(given), &vectors(2, DataType::Float32), &array(vector));
    let infinite = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(0.1), Some(1e300)])]);
    refused(&array(infinite), &vectors(2, DataType::Float32), 0, "[0.1, 1e300]");

    let fields = |a: DataType, b: DataType| Fields::from(vec![Field::new("a", a, true), Field::new("b", b, true)]);
    let given = fields(DataType::Float64, DataType::Utf8);
    let pair = |numbers: ArrayRef| StructArray::new(given.clone(), vec![numbers, texts(["x", "y"])], None);
    let wanted = fields(DataType::Int8, DataType::LargeUtf8);
    let expected = vec![array(Int8Array::from(vec![1, 2])), cast(&texts(["x", "y"]), &DataType::LargeUtf8).unwrap()];
    let expected = array(StructArray::new(wanted.clone(), expected, None));
    taken(&array(pair(floats([1.0, 2.0]))), &DataType::Struct(wanted.clone()), &expected);
    refused(&array(pair(floats([1.0, 2.5]))), &DataType::Struct(wanted), 1, "{a: 2.5, b: y}");
}

#[test]
fn encodings_lose_nothing() {
    let dictionary: DictionaryArray<Int8Type> = [Some("7"), None, Some("7")].into_iter().collect();
    taken(&array(dictionary.clone()), &DataType::Utf8, &array(StringArray::from(vec![Some("7"), None, Some("7")])));
    taken(&array(dictionary), &DataType::Int32, &array(Int32Array::from(vec![Some(7), None, Some(7)])));
    let error = exact(&ints([1]), &Field::new("c", DataType::Struct(Fields::empty()), true)).unwrap_err();
    assert_eq!(error.to_string(), "column `c` is Struct(), found Int64");
    // A value that comes back as something else was not cast.
    refused(&ints([1]), &DataType::Binary, 0, "1");
}
