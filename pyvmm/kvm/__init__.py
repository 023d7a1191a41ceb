"""/dev/kvm and nothing else: a binding that stands on its own.

    General layout
    system.py   Kvm: /dev/kvm itself, capabilities, supported CPUID, MSR lists
    vm.py       Vm: memory slots, interrupt controllers, irqfd, ioeventfd, routing, clock
    vcpu.py     Vcpu: run, and every piece of a virtual CPU's state
    exits.py    what Vcpu.run() returns, one type for each reason
    cpuid.py    what CPUID tells the guest; cpuid_spec.py names the features
    _call.py    the one place where an errno becomes KvmError
    _build.py   builds the extension with cffi; _cdef.h is what it takes from <linux/kvm.h>

Structures are those of <linux/kvm.h> under their own names (`regs.rip`, `sregs.cs.base`). Getting
one gives a copy; assigning it back sets it.
"""

from pyvmm.kvm.system import Kvm
from pyvmm.kvm.vcpu import Vcpu
from pyvmm.kvm.vm import Vm

__all__ = ["Kvm", "Vcpu", "Vm"]
