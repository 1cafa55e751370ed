//! What CloudWatch makes of datapoints: statistics, metric math and the state of an alarm, as far as `template.yaml` uses
//! them (Amazon CloudWatch user guide, "Statistics definitions", "Using metric math", "Using Amazon CloudWatch alarms").

use std::collections::BTreeMap;

use serde_json::Value;

/// A metric of a namespace with its dimensions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series {
    namespace: String,
    name: String,
    dimensions: BTreeMap<String, String>,
}

impl Series {
    pub(crate) fn new(namespace: &str, name: &str, dimensions: &[(&str, &str)]) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            dimensions: dimensions
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    /// What an alarm or a part of one looks at.
    fn of(metric: &Value) -> Self {
        let dimensions = metric["Dimensions"].as_array().into_iter().flatten();
        // Of an If, where its condition holds.
        let text = |value: &Value| value.as_str().or(value[1].as_str()).unwrap().to_owned();
        Self {
            namespace: text(&metric["Namespace"]),
            name: text(&metric["MetricName"]),
            dimensions: dimensions
                .map(|dimension| (text(&dimension["Name"]), text(&dimension["Value"])))
                .collect(),
        }
    }
}

/// The values of one period.
#[derive(Debug, Clone, Default)]
pub(crate) struct Period(BTreeMap<Series, Vec<f64>>);

impl Period {
    pub(crate) fn add(&mut self, series: Series, value: f64) {
        self.0.entry(series).or_default().push(value);
    }

    /// Adds a log line in the embedded metric format, as CloudWatch reads it, under the namespace that the template gives the
    /// functions.
    pub(crate) fn add_line(&mut self, line: &Value) {
        let directives = line["_aws"]["CloudWatchMetrics"].as_array();
        for directive in directives.into_iter().flatten() {
            for metric in directive["Metrics"].as_array().unwrap() {
                let name = metric["Name"].as_str().unwrap();
                for set in directive["Dimensions"].as_array().unwrap() {
                    let dimensions = set.as_array().unwrap().iter();
                    let series = Series {
                        namespace: "ClinicComms/${AWS::StackName}".to_owned(),
                        name: name.to_owned(),
                        dimensions: dimensions
                            .map(|dimension| dimension.as_str().unwrap())
                            .map(|name| (name.to_owned(), line[name].as_str().unwrap().to_owned()))
                            .collect(),
                    };
                    self.add(series, line[name].as_f64().unwrap());
                }
            }
        }
    }

    /// None where there was no datapoint.
    fn statistic(&self, series: &Series, statistic: &str) -> Option<f64> {
        let mut values = self.0.get(series)?.clone();
        values.sort_by(f64::total_cmp);
        let count = |count: usize| f64::from(u32::try_from(count).unwrap());
        if let Some(bounds) = statistic.strip_prefix("TC(") {
            let lower: f64 = bounds.strip_suffix(":)").unwrap().parse().unwrap();
            return Some(count(values.iter().filter(|value| **value > lower).count()));
        }
        Some(match statistic {
            "Sum" => values.iter().sum(),
            "Maximum" => *values.last().unwrap(),
            "p90" => values[values.len() * 9 / 10],
            "p95" => values[values.len() * 95 / 100],
            other => panic!("{other} is a statistic that is unknown here"),
        })
    }
}

/// An alarm of the template.
pub(crate) struct Alarm<'a> {
    properties: &'a Value,
    parameters: &'a Value,
}

impl<'a> Alarm<'a> {
    pub(crate) fn of(template: &'a Value, name: &str) -> Self {
        let properties = &template["Resources"][name]["Properties"];
        assert_eq!(properties["TreatMissingData"], "notBreaching", "{name}");
        assert_eq!(
            properties["ComparisonOperator"], "GreaterThanThreshold",
            "{name}"
        );
        Self {
            properties,
            parameters: &template["Parameters"],
        }
    }

    /// How long a datapoint's period is.
    pub(crate) fn period_seconds(&self) -> u64 {
        let period = |value: &Value| value["Period"].as_u64();
        let parts = self.properties["Metrics"].as_array().into_iter().flatten();
        let mut all = parts
            .filter_map(|part| period(&part["MetricStat"]))
            .chain(period(self.properties));
        let first = all.next().unwrap();
        assert!(all.all(|other| other == first));
        first
    }

    pub(crate) fn evaluation_periods(&self) -> usize {
        let periods = self.properties["EvaluationPeriods"].as_u64().unwrap();
        usize::try_from(periods).unwrap()
    }

    /// Every series that it looks at.
    pub(crate) fn series(&self) -> Vec<Series> {
        match self.properties["Metrics"].as_array() {
            None => vec![Series::of(self.properties)],
            Some(parts) => parts
                .iter()
                .filter_map(|part| part["MetricStat"].get("Metric"))
                .map(Series::of)
                .collect(),
        }
    }

    fn value(&self, period: &Period) -> Option<f64> {
        let Some(parts) = self.properties["Metrics"].as_array() else {
            let statistic = self.properties["Statistic"].as_str().unwrap();
            return period.statistic(&Series::of(self.properties), statistic);
        };
        let mut values = BTreeMap::new();
        let mut expressions = Vec::new();
        for part in parts {
            let id = part["Id"].as_str().unwrap();
            if let Some(expression) = part["Expression"].as_str() {
                assert!(part["ReturnData"].is_null(), "{id} is what is compared");
                expressions.push(expression);
                continue;
            }
            assert_eq!(part["ReturnData"], false, "{id}");
            let statistic = part["MetricStat"]["Stat"].as_str().unwrap();
            let series = Series::of(&part["MetricStat"]["Metric"]);
            values.insert(id, period.statistic(&series, statistic));
        }
        let [expression] = expressions.as_slice() else {
            panic!("one expression is compared: {expressions:?}");
        };
        let mut text = (*expression).to_owned();
        for (name, parameter) in self.parameters.as_object().unwrap() {
            let default = parameter["Default"].to_string();
            text = text.replace(&format!("${{{name}}}"), default.trim_matches('"'));
        }
        let mut parser = Parser {
            rest: &text,
            values: &values,
        };
        let value = parser.comparison();
        assert_eq!(parser.rest, "", "{text}");
        value
    }

    /// Whether it is on after `periods`, of which the last is the newest. What is missing does not breach.
    pub(crate) fn is_on(&self, periods: &[Period]) -> bool {
        let evaluated = self.evaluation_periods();
        let needed = self.properties["DatapointsToAlarm"]
            .as_u64()
            .map_or(evaluated, |needed| usize::try_from(needed).unwrap());
        let threshold = self.properties["Threshold"].as_f64().unwrap();
        let newest = periods.iter().rev().take(evaluated);
        let breaching = newest
            .filter_map(|period| self.value(period))
            .filter(|value| *value > threshold);
        breaching.count() >= needed
    }
}

/// Metric math. A value that is missing makes what is computed of it missing; SUM and MAX leave it out.
struct Parser<'a> {
    rest: &'a str,
    values: &'a BTreeMap<&'a str, Option<f64>>,
}

impl Parser<'_> {
    fn takes(&mut self, token: &str) -> bool {
        let found = self.rest.strip_prefix(token);
        if let Some(rest) = found {
            self.rest = rest.trim_start();
        }
        found.is_some()
    }

    #[track_caller]
    fn expects(&mut self, token: &str) {
        assert!(
            self.takes(token),
            "{token} is expected before {:?}",
            self.rest
        );
    }

    fn comparison(&mut self) -> Option<f64> {
        let left = self.sum();
        if self.takes(">=") {
            let right = self.sum();
            return Some(f64::from(u8::from(left? >= right?)));
        }
        left
    }

    fn sum(&mut self) -> Option<f64> {
        let mut value = self.product();
        while self.takes("+") {
            let right = self.product();
            value = value.zip(right).map(|(left, right)| left + right);
        }
        value
    }

    fn product(&mut self) -> Option<f64> {
        let mut value = self.term();
        loop {
            let multiplies = self.takes("*");
            if !multiplies && !self.takes("/") {
                return value;
            }
            let right = self.term();
            value = value.zip(right).and_then(|(left, right)| {
                if multiplies {
                    Some(left * right)
                } else {
                    // A division by zero has no datapoint.
                    (right != 0.0).then(|| left / right)
                }
            });
        }
    }

    fn list(&mut self) -> Vec<Option<f64>> {
        if self.takes("METRICS()") {
            return self.values.values().copied().collect();
        }
        if self.takes("FILL(METRICS(),") {
            let filling = self.comparison();
            self.expects(")");
            return self
                .values
                .values()
                .map(|value| value.or(filling))
                .collect();
        }
        self.expects("[");
        let mut all = vec![self.comparison()];
        while self.takes(",") {
            all.push(self.comparison());
        }
        self.expects("]");
        all
    }

    fn term(&mut self) -> Option<f64> {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '.')
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let word = word.to_owned();
        self.rest = rest.trim_start();
        if word.is_empty() {
            self.expects("(");
            let value = self.comparison();
            self.expects(")");
            return value;
        }
        if let Ok(number) = word.parse() {
            return Some(number);
        }
        if !self.takes("(") {
            return *self
                .values
                .get(word.as_str())
                .unwrap_or_else(|| panic!("{word} is no metric of the alarm"));
        }
        let value = match word.as_str() {
            "SUM" => self.list().into_iter().flatten().reduce(|a, b| a + b),
            "MAX" => self.list().into_iter().flatten().reduce(f64::max),
            "IF" => {
                let condition = self.comparison();
                self.expects(",");
                let then = self.comparison();
                self.expects(",");
                let otherwise = self.comparison();
                condition.and_then(|condition| if condition == 0.0 { otherwise } else { then })
            }
            other => panic!("{other} is a function that is unknown here"),
        };
        self.expects(")");
        value
    }
}

#[test]
fn metric_math_leaves_out_what_is_missing() {
    let values = BTreeMap::from([("a", Some(3.0)), ("b", None), ("c", Some(0.0))]);
    for (text, expected) in [
        ("100 * a / SUM([a, b])", Some(100.0)),
        ("100 * b / SUM([a, b])", None),
        ("a / c", None),
        ("SUM(METRICS())", Some(3.0)),
        ("SUM(FILL(METRICS(), 1))", Some(4.0)),
        ("SUM([b])", None),
        (
            "MAX([IF(a >= 4, 7, 0), IF(b >= 4, 8, 0), 2 + a])",
            Some(5.0),
        ),
        ("IF(SUM([a, b]) >= 3, (a + 1) * 2, 0)", Some(8.0)),
    ] {
        let mut parser = Parser {
            rest: text,
            values: &values,
        };
        assert_eq!(parser.comparison(), expected, "{text}");
        assert_eq!(parser.rest, "", "{text}");
    }
}
