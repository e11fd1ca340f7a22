//! The shape of a report: what its rows are of, which models they had, what they cost. Pure.

use std::collections::{BTreeSet, HashMap};

use jiff::tz::TimeZone;
use serde::Serialize;

use super::prices::Prices;
use super::rate::{Block, Budget};
use crate::api::{By, Headroom, Slice, UsageReport, UsageRow, UsageTotal};
use crate::ledger::period::label;

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Stretches of time, if any.
    pub period: Option<Slice>,
    /// What the rows are of; empty with `period`: of the time alone, without it: the usual four.
    pub by: Vec<By>,
    /// Prices, if money is wanted.
    pub prices: Option<Prices>,
}

/// One row as it is shown.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// The stretch of time, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The models that are in it, where the rows are not of models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<BTreeSet<String>>,
    #[serde(flatten)]
    pub row: UsageRow,
    /// What it cost, as far as prices are known. Unit: millionths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
}

/// A report as it is shown, and what --json writes.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Shaped {
    pub rows: Vec<Row>,
    pub total: UsageTotal,
    /// What all of it cost. Unit: millionths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
    /// What the costs are in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// Models that the file of prices does not know.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unpriced: BTreeSet<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<Budget>,
    /// What providers said of their own limits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headroom: Vec<Headroom>,
    /// The block of five hours that runs now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<Block>,
}

impl View {
    pub(super) fn new(period: Option<Slice>, by: impl Iterator<Item = By>, prices: Option<Prices>) -> View {
        let mut by: Vec<By> = by.collect();
        by.sort_unstable();
        by.dedup();
        if period == Some(Slice::Session) && !by.contains(&By::Bottle) {
            by.insert(0, By::Bottle);
        }
        View { period, by, prices }
    }

    /// Tells whether the rows are those of the report without any words.
    pub(super) fn is_usual(&self) -> bool {
        self.period.is_none() && self.by.is_empty()
    }

    /// What the rows are of.
    pub(super) fn columns(&self) -> Vec<By> {
        if self.is_usual() { vec![By::Bottle, By::Agent, By::Provider, By::Model] } else { self.by.clone() }
    }

    /// What the controller is asked for: the models as well, to name them and to know their prices.
    pub(super) fn query_by(&self) -> Option<Vec<By>> {
        let mut by = self.by.clone();
        if !by.contains(&By::Model) {
            by.push(By::Model);
        }
        (!self.is_usual()).then_some(by)
    }

    /// Brings rows that differ in their model only together, where they are not of models.
    pub(super) fn shaped(&self, report: UsageReport, zone: &TimeZone) -> Shaped {
        let by_model = self.columns().contains(&By::Model);
        let mut shaped = Shaped {
            total: report.total,
            currency: self.prices.as_ref().map(|prices| prices.currency.clone()),
            ..Shaped::default()
        };
        let mut places: HashMap<_, usize> = HashMap::new();
        for mut row in report.rows {
            let cost = self.prices.as_ref().map(|prices| prices.cost(&row.model, &row.total));
            if cost == Some(None) {
                shaped.unpriced.insert(row.model.clone());
            }
            let cost = cost.map(Option::unwrap_or_default);
            if let Some(cost) = cost {
                shaped.cost = Some(shaped.cost.unwrap_or_default().saturating_add(cost));
            }
            let model = (!by_model).then(|| std::mem::take(&mut row.model));
            let start = row.span.map(|span| span.start).filter(|_| self.period != Some(Slice::Session));
            let UsageRow { bottle, agent, provider, model: of, recipe, run, .. } = row.clone();
            let place = *places.entry((start, bottle, agent, provider, of, recipe, run)).or_insert(shaped.rows.len());
            if shaped.rows.len() == place {
                let label = self.period.zip(row.span).map(|(period, span)| label(period, span.start, zone));
                let models = model.is_some().then(BTreeSet::new);
                let empty = UsageRow { total: UsageTotal::default(), ..row.clone() };
                shaped.rows.push(Row { label, models, row: empty, cost: cost.map(|_| 0) });
            }
            let Some(to) = shaped.rows.get_mut(place) else { continue };
            to.row.total.add(&row.total);
            if let (Some(models), Some(model)) = (&mut to.models, model) {
                models.insert(model);
            }
            if let (Some(sum), Some(cost)) = (&mut to.cost, cost) {
                *sum = sum.saturating_add(cost);
            }
            if let (Some(span), Some(more)) = (&mut to.row.span, row.span) {
                (span.first, span.last) = (span.first.min(more.first), span.last.max(more.last));
                if self.period == Some(Slice::Session) {
                    (span.start, span.end) = (span.first, span.last);
                    to.label = Some(label(Slice::Session, span.last, zone));
                }
            }
        }
        shaped
    }

    /// Gets the block that runs now, where the report is of blocks.
    pub(super) fn block(&self, rows: &[Row], now: i64) -> Option<Block> {
        if self.period != Some(Slice::Block) {
            return None;
        }
        let spans = rows.iter().filter_map(|row| Some((row.row.span?, row.row.total.counted)));
        Block::of(spans, now)
    }
}
