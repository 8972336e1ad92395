//! Wall time of the head parser and httparse, by criterion: for following one of them over time. The ratios that count are
//! made by `redir-bench parser`, which measures both in turns.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use redir_bench::parser::contenders::{self, Filters};
use redir_bench::parser::corpus::corpus;

fn parser(criterion: &mut Criterion) {
    let table = contenders::table(Filters::Values, 1);
    let mut group = criterion.benchmark_group("parser");
    for head in corpus() {
        let bytes = head.bytes.as_slice();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let id = |side| BenchmarkId::new(side, head.name);
        group.bench_function(id("redir"), |bench| bench.iter(|| contenders::redir(black_box(bytes), &table)));
        group.bench_function(id("httparse"), |bench| bench.iter(|| contenders::httparse(black_box(bytes))));
        group.bench_function(id("redir, framed"), |bench| bench.iter(|| contenders::engine(black_box(bytes), &table)));
        group.bench_function(id("httparse, framed"), |bench| {
            bench.iter(|| contenders::httparse_framed(black_box(bytes)));
        });
    }
    group.finish();
}

/// Short: there are 76 of them, and each does its work a million times a second or more.
fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}

criterion_group!(name = benches; config = short(); targets = parser);
criterion_main!(benches);
