//! Three accounts of the same calls held against each other: the ledger's, the providers' and the clients'.

use super::{client::Record, cloud::Arrived, gateway::Gateway};
use serde::Deserialize;
use std::collections::BTreeMap;

/// One row of the ledger.
#[derive(Debug, Clone, Deserialize)]
pub struct Attempt {
    pub request: String,
    pub target: String,
    pub model: String,
    pub outcome: String,
    pub usage: Usage,
    pub cost: u64,
    pub reserved: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub estimated: bool,
}

#[derive(Debug, Deserialize)]
pub struct Page {
    pub attempts: Vec<Attempt>,
    pub next: u64,
}

#[derive(Debug, Default)]
pub struct Books {
    ledger: Vec<Attempt>,
    next: u64,
    provider: Vec<Arrived>,
    clients: Vec<Record>,
}

/// What one run's accounts amount to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub requests: usize,
    pub ledger_attempts: usize,
    pub provider_calls: usize,
    /// Attempts of the ledger without a call of the provider under that request id, and calls without an attempt.
    pub difference: usize,
    /// Attempts whose usage the provider reported, and the sum of |ledger − provider| over their completion tokens.
    pub counted: usize,
    pub token_difference: u64,
    /// Attempts without usage, and those of them outside provider's count ≤ ledger ≤ reservation.
    pub estimated: usize,
    pub out_of_bounds: Vec<String>,
}

impl Books {
    pub fn client(&mut self, record: Record) {
        self.clients.push(record);
    }

    pub fn read_provider(&mut self, arrived: Vec<Arrived>) {
        self.provider.extend(arrived);
    }

    /// Reads the ledger's rows up to now. Call it often: it keeps its newest rows only.
    pub async fn read_ledger(&mut self, gateway: &Gateway) {
        loop {
            let url = gateway.admin_url(&format!("/admin/usage/attempts?from={}&limit=1000", self.next));
            let page = gateway.client.get_json(&url).await.expect("the ledger's rows can be read");
            let page: Page = serde_json::from_value(page).expect("rows have their shape");
            assert_eq!(page.next, self.next + page.attempts.len() as u64, "no row was dropped unread");
            self.next = page.next;
            if page.attempts.is_empty() {
                return;
            }
            self.ledger.extend(page.attempts);
        }
    }

    pub fn compare(&self) -> Comparison {
        let mut by_id: BTreeMap<&str, (Vec<&Attempt>, Vec<&Arrived>)> = BTreeMap::new();
        // What a local target did is no call of a provider.
        for attempt in self.ledger.iter().filter(|attempt| attempt.target != "local") {
            by_id.entry(&attempt.request).or_default().0.push(attempt);
        }
        for arrived in &self.provider {
            by_id.entry(&arrived.request_id).or_default().1.push(arrived);
        }
        let mut found = Comparison {
            requests: self.clients.len(),
            ledger_attempts: self.ledger.len(),
            provider_calls: self.provider.len(),
            ..Comparison::default()
        };
        for (id, (attempts, mut calls)) in by_id {
            found.difference += attempts.len().abs_diff(calls.len());
            // A request's attempts follow one another; its calls come from the accounts of several providers.
            calls.sort_by_key(|call| call.received_unix_ns);
            for (attempt, call) in attempts.iter().zip(calls) {
                found.hold(id, attempt, call);
            }
        }
        found
    }

    /// Outcomes of the ledger's attempts at `target`, in order.
    pub fn outcomes(&self, target: &str) -> Vec<&str> {
        self.ledger.iter().filter(|attempt| attempt.target == target).map(|attempt| attempt.outcome.as_str()).collect()
    }

    pub fn assert_equal(&self) {
        let found = self.compare();
        assert_eq!((found.difference, found.token_difference), (0, 0), "{found:#?}");
        assert!(found.out_of_bounds.is_empty(), "{found:#?}");
        assert!(found.counted > 0 && found.estimated > 0, "both kinds were there: {found:#?}");
    }
}

impl Comparison {
    fn hold(&mut self, id: &str, attempt: &Attempt, call: &Arrived) {
        if !attempt.usage.estimated && attempt.outcome == "ok" {
            self.counted += 1;
            self.token_difference += attempt.usage.completion_tokens.abs_diff(call.completion_tokens);
            return;
        }
        self.estimated += 1;
        // A refusal generates nothing and costs nothing.
        let bounded = call.completion_tokens <= attempt.usage.completion_tokens && attempt.cost <= attempt.reserved;
        if !bounded {
            self.out_of_bounds.push(format!("{id}: ledger {attempt:?}, provider {call:?}"));
        }
    }
}
