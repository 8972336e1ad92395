//! Brings the programs of a pod in line with devices and addresses that change while it is intercepted.
//!
//! A device that came is given programs, one that went is forgotten, and one that another has taken the place of is
//! given them anew. What stays keeps its programs all the while: a leg that is under way must be turned round.

use std::net::IpAddr;

use redir_abi::POD_IP_ENTRIES;

use super::{
    DatapathError, LOOPBACK, MAX_DEVICES, NO_DEVICE, PodDatapath, PodDevice, ProgramAttachment, YieldPoint,
    netlink::FilterParent, object,
};

/// What is left to be done after one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdaptStep {
    /// Nothing.
    Whole,
    /// Some devices still have no programs: take another step.
    Partly,
}

impl PodDatapath {
    /// One step towards these devices, which takes some milliseconds. A device that could not be given its programs is
    /// tried again by the next step; the error is the first of them.
    pub(crate) fn adapt(&mut self, devices: &[PodDevice], pause: YieldPoint<'_>) -> Result<AdaptStep, DatapathError> {
        let devices = &devices[..devices.len().min(MAX_DEVICES)];
        let result = self.forget_gone(devices, pause);
        self.devices = devices.to_vec();
        result.and(self.reach_new(pause))
    }

    /// Steers connections to these addresses from now on; those beyond what the map holds are left to the app.
    pub(crate) fn readdress(&mut self, addresses: &[IpAddr]) -> Result<(), DatapathError> {
        let most = usize::try_from(POD_IP_ENTRIES).unwrap_or(usize::MAX);
        self.maps.set_pod_ips(&addresses[..addresses.len().min(most)])
    }

    fn forget_gone(&mut self, devices: &[PodDevice], pause: YieldPoint<'_>) -> Result<(), DatapathError> {
        let stays = |attachment: &ProgramAttachment| {
            let device = attachment.device();
            let known = matches!(device, NO_DEVICE | LOOPBACK) || devices.iter().any(|one| one.index == device);
            known && attachment.holds()
        };
        let gone = self.inside(|this| {
            let lists = [&mut this.steering, &mut this.reflecting];
            let gone = lists.map(|list| list.extract_if(.., |attachment| !stays(attachment)).collect::<Vec<_>>());
            Ok(gone.into_iter().flatten().collect::<Vec<_>>())
        })?;
        let mut result = Ok(());
        for attachment in gone {
            pause();
            // Also from a device that lives on elsewhere: it may be the node's now.
            result = result.and(self.inside(|_| attachment.detach()));
        }
        let used = |index: u32| self.steering.iter().chain(&self.reflecting).any(|one| one.device() == index);
        let unused: Vec<_> = self.qdiscs.extract_if(.., |(index, _)| !used(*index)).collect();
        for (_, qdisc) in unused {
            pause();
            result = result.and(self.inside(|_| qdisc.release()));
        }
        result
    }

    fn reach_new(&mut self, pause: YieldPoint<'_>) -> Result<AdaptStep, DatapathError> {
        let steers = !self.steering.is_empty();
        let lacks = |attachments: &[ProgramAttachment], device: &PodDevice| {
            !attachments.iter().any(|attachment| attachment.device() == device.index)
        };
        let (mut left, mut result) = (STEP, Ok(AdaptStep::Whole));
        for device in after(&self.devices, self.last_failed) {
            let reflect = lacks(&self.reflecting, &device);
            let steer = steers && lacks(&self.steering, &device);
            if !reflect && !steer {
                continue;
            }
            if left == 0 {
                return result.and(Ok(AdaptStep::Partly));
            }
            left -= 1;
            pause();
            match self.inside(|this| this.reach(&device, reflect, steer)) {
                Err(error) if !error.is_of_a_device_that_went() => {
                    self.last_failed = Some(device.index);
                    result = result.and(Err(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        result
    }

    /// Reflect first, as ever: what is steered must find it.
    fn reach(&mut self, device: &PodDevice, reflect: bool, steer: bool) -> Result<(), DatapathError> {
        if reflect {
            let attachment = self.attach_one(device, FilterParent::Egress, object::reflect_for(device))?;
            self.reflecting.push(attachment);
        }
        if steer {
            let attachment = self.attach_one(device, FilterParent::Ingress, object::steer_for(device))?;
            self.steering.push(attachment);
        }
        Ok(())
    }
}

/// The devices, those behind the one that failed last first: as many as a step takes must not keep it from the others.
fn after(devices: &[PodDevice], last_failed: Option<u32>) -> Vec<PodDevice> {
    let mut devices = devices.to_vec();
    if let Some(at) = devices.iter().position(|device| Some(device.index) == last_failed) {
        devices.rotate_left(at + 1);
    }
    devices
}

/// Devices that are given programs in one step: with clsact it takes about a millisecond each.
const STEP: usize = 8;

#[cfg(test)]
mod tests {
    use super::{super::LinkLayer, *};

    #[test]
    fn a_step_begins_behind_the_device_that_failed_last() {
        let device = |index| PodDevice { index, name: format!("eth{index}"), framing: LinkLayer::Ethernet };
        let devices: Vec<_> = (1..=4).map(device).collect();
        let order = |failed| after(&devices, failed).iter().map(|device| device.index).collect::<Vec<_>>();
        assert_eq!(order(None), [1, 2, 3, 4]);
        assert_eq!(order(Some(2)), [3, 4, 1, 2]);
        assert_eq!(order(Some(4)), [1, 2, 3, 4]);
        assert_eq!(order(Some(9)), [1, 2, 3, 4], "it is gone");
    }
}
