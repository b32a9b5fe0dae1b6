//! When a card that works is strained: too hot, too full, slowed down. Pure, with hysteresis: what is strained stays so
//! until it is clearly relieved, or traffic would swing between two targets.

use super::nvml::{GpuReading, Slowdown};
use crate::{
    config::StrainLimits,
    gpu::life::{Strain, StrainKind},
};

/// The strain that `reading` shows on a card which had `before`. `None`: it is well.
pub fn judge(reading: &GpuReading, before: Option<StrainKind>, limits: &StrainLimits) -> Option<Strain> {
    heat(reading, before, limits).or_else(|| memory(reading, before, limits)).or_else(|| slowed(reading))
}

fn heat(reading: &GpuReading, before: Option<StrainKind>, limits: &StrainLimits) -> Option<Strain> {
    let strain = |detail| Some(Strain { kind: StrainKind::Heat, detail });
    let celsius = reading.temperature_celsius;
    if reading.slowdown == Some(Slowdown::Thermal) {
        let at = celsius.map(|celsius| format!(" at {celsius} °C")).unwrap_or_default();
        return strain(format!("the driver slows it down{at}"));
    }
    // The card knows better than we do where it begins to slow down, if that is lower.
    let enter = reading.slowdown_celsius.map_or(limits.heat_enter, |own| own.min(limits.heat_enter));
    let leave = enter.saturating_sub(limits.heat_enter - limits.heat_leave);
    let bound = if before == Some(StrainKind::Heat) { leave } else { enter };
    let celsius = celsius.filter(|celsius| *celsius >= bound)?;
    strain(format!("{celsius} °C, left alone from {enter} °C until below {leave} °C"))
}

fn memory(reading: &GpuReading, before: Option<StrainKind>, limits: &StrainLimits) -> Option<Strain> {
    let (used, total) = (reading.memory_used_bytes?, reading.memory_total_bytes.filter(|total| *total > 0)?);
    let percent = u32::try_from(u128::from(used) * 100 / u128::from(total)).unwrap_or(u32::MAX);
    let bound = if before == Some(StrainKind::Memory) { limits.memory_leave } else { limits.memory_enter };
    let detail = format!(
        "{percent} % of its memory is in use, left alone from {} % until below {} %",
        limits.memory_enter, limits.memory_leave
    );
    (percent >= bound).then_some(Strain { kind: StrainKind::Memory, detail })
}

fn slowed(reading: &GpuReading) -> Option<Strain> {
    let power = reading.slowdown == Some(Slowdown::Power);
    power.then(|| Strain { kind: StrainKind::Slow, detail: "the hardware slows its clocks down".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading(celsius: u32, memory_percent: u64) -> GpuReading {
        GpuReading {
            temperature_celsius: Some(celsius),
            memory_used_bytes: Some(memory_percent),
            memory_total_bytes: Some(100),
            ..GpuReading::of("GPU-a", 0)
        }
    }

    fn kind(reading: &GpuReading, before: Option<StrainKind>) -> Option<StrainKind> {
        judge(reading, before, &StrainLimits::default()).map(|strain| strain.kind)
    }

    #[test]
    fn a_hot_card_is_left_alone_until_it_is_clearly_cooler() {
        let mut before = None;
        let mut told = Vec::new();
        for celsius in [80, 87, 88, 86, 83, 82, 87] {
            before = kind(&reading(celsius, 10), before);
            told.push(before.is_some());
        }
        assert_eq!(told, [false, false, true, true, true, false, false]);
    }

    #[test]
    fn the_cards_own_slowdown_threshold_counts_if_it_is_lower() {
        let own = |slowdown| GpuReading { slowdown_celsius: Some(slowdown), ..reading(80, 10) };
        assert_eq!(kind(&own(80), None), Some(StrainKind::Heat));
        assert_eq!(kind(&own(95), None), None);
        assert_eq!(kind(&GpuReading { temperature_celsius: Some(88), ..own(95) }, None), Some(StrainKind::Heat));
    }

    #[test]
    fn a_full_card_is_left_alone_until_there_is_room() {
        assert_eq!(kind(&reading(50, 96), None), None);
        assert_eq!(kind(&reading(50, 97), None), Some(StrainKind::Memory));
        assert_eq!(kind(&reading(50, 93), Some(StrainKind::Memory)), Some(StrainKind::Memory));
        assert_eq!(kind(&reading(50, 92), Some(StrainKind::Memory)), None);
    }

    #[test]
    fn throttling_counts_whatever_the_thermometer_says() {
        let slowed = |slowdown| GpuReading { slowdown: Some(slowdown), ..reading(40, 10) };
        assert_eq!(kind(&slowed(Slowdown::Thermal), None), Some(StrainKind::Heat));
        assert_eq!(kind(&slowed(Slowdown::Power), None), Some(StrainKind::Slow));
    }

    proptest! {
        /// Between the two bounds nothing changes, in either direction.
        #[test]
        fn inside_the_band_the_judgement_stays(celsius in 83_u32..88, strained: bool) {
            let before = strained.then_some(StrainKind::Heat);
            prop_assert_eq!(kind(&reading(celsius, 10), before), before);
        }
    }
}
