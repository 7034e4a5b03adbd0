// A simulated cluster register for one lockspace: who is a member, who is a victim, which gates are open. The truth; the
// members learn it through LockSim, each with its own delay, and may miss versions in between.
#pragma once

#include <algorithm>

#include "dlm/view.h"

namespace holdfast::dlm {

class SimRegister {
 public:
  const View& view() const { return view_; }
  bool IsMember(const MemberId& m) const {
    return std::any_of(view_.members.begin(), view_.members.end(), [&](const Member& x) { return x.id == m; });
  }
  const Victim* FindVictim(const MemberId& m) const {
    for (const Victim& v : view_.victims)
      if (v.id == m) return &v;
    return nullptr;
  }
  void Join(const MemberId& m) {
    view_.members.push_back({m, MountNo(m.node.v), {}});
    std::sort(view_.members.begin(), view_.members.end());
    Bump(true);
  }
  void Leave(const MemberId& m) {
    std::erase_if(view_.members, [&](const Member& x) { return x.id == m; });
    Bump(true);
  }
  void Evict(const MemberId& m) {
    std::erase_if(view_.members, [&](const Member& x) { return x.id == m; });
    Victim v;
    v.id = m;
    v.mount = MountNo(m.node.v);
    view_.victims.push_back(v);
    std::sort(view_.victims.begin(), view_.victims.end());
    Bump(true);
  }
  void SetFenced(const MemberId& m) { Set(m, &Victim::fenced); }
  void SetReplayed(const MemberId& m) { Set(m, &Victim::replayed); }
  void SetReadersEnded(const MemberId& m) { Set(m, &Victim::readers_ended); }

 private:
  void Set(const MemberId& m, bool Victim::* fact) {
    for (Victim& v : view_.victims)
      if (v.id == m) v.*fact = true;
    // Buried: both gates are open.
    std::erase_if(view_.victims, [](const Victim& v) { return v.fenced && v.replayed && v.readers_ended; });
    Bump(false);
  }
  void Bump(bool members_changed) {
    view_.version.v++;
    if (members_changed) view_.generation.v++;
  }
  View view_;
};

}  // namespace holdfast::dlm
