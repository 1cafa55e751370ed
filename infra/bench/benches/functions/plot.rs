//! The plot: deliveries a second and the 99th percentile of an invocation's time, over how many are in flight and over how
//! many clinics there are.

use std::path::Path;

use plotters::prelude::*;

use crate::Row;

const SIZE: (u32, u32) = (960, 640);
const LINE: RGBColor = RGBColor(0x1f, 0x5f, 0x8b);

/// One panel: a line through the rows.
struct Panel<'a> {
    title: &'a str,
    along: &'a str,
    points: Vec<(f64, f64)>,
}

/// Writes the plot as SVG.
pub(crate) fn draw(file: &Path, by_concurrency: &[Row], by_clinics: &[Row]) {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE).unwrap();
    let in_flight = |row: &Row| number(row.shape.invocations * row.shape.messages);
    let clinics = |row: &Row| number(row.shape.clinics);
    let per_second = |row: &Row| row.per_second;
    let p99 = |row: &Row| row.p99.as_secs_f64() * 1e3;
    let (flight, many) = ("messages in flight", "clinics");
    let panels = [
        panel(
            "deliveries a second",
            flight,
            by_concurrency,
            in_flight,
            per_second,
        ),
        panel("deliveries a second", many, by_clinics, clinics, per_second),
        panel(
            "p99 of an invocation, ms",
            flight,
            by_concurrency,
            in_flight,
            p99,
        ),
        panel("p99 of an invocation, ms", many, by_clinics, clinics, p99),
    ];
    for (part, panel) in area.split_evenly((2, 2)).iter().zip(&panels) {
        draw_panel(part, panel);
    }
    area.present().unwrap();
}

fn panel<'a>(
    title: &'a str,
    along: &'a str,
    rows: &[Row],
    x: impl Fn(&Row) -> f64,
    y: impl Fn(&Row) -> f64,
) -> Panel<'a> {
    Panel {
        title,
        along,
        points: rows.iter().map(|row| (x(row), y(row))).collect(),
    }
}

fn draw_panel(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, panel: &Panel<'_>) {
    let most = |value: fn(&(f64, f64)) -> f64| panel.points.iter().map(value).fold(1.0, f64::max);
    let (x, y) = (most(|point| point.0), most(|point| point.1));
    let least = panel.points.first().map_or(1.0, |point| point.0);
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d((least..x * 1.1).log_scale(), 0.0..y * 1.15)
        .unwrap();
    let label = |value: &f64| format!("{value:.0}");
    chart
        .configure_mesh()
        .x_desc(panel.along)
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .light_line_style(TRANSPARENT)
        .draw()
        .unwrap();
    chart
        .draw_series(
            LineSeries::new(panel.points.iter().copied(), LINE.stroke_width(2)).point_size(3),
        )
        .unwrap();
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}
