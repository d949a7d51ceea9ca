// An accelerator without kernels, for a PyTorch that was built without one: autograd asks for its streams.
// The variable STAND_IN says which kind it is, "cuda" or "mps".
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstdlib>
#include <string>

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

namespace {

bool is(const char* kind) {
  const char* said = std::getenv("STAND_IN");
  return said != nullptr && std::string(said) == kind;
}

template <DeviceType type>
struct Guard final : c10::impl::NoOpDeviceGuardImpl<type> {
  Device exchangeDevice(Device) const override { return Device(type, 0); }
  Device getDevice() const override { return Device(type, 0); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, Device(type, 0)); }
  Stream getDefaultStream(Device) const override { return Stream(Stream::DEFAULT, Device(type, 0)); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, Device(type, 0)); }
};

template <DeviceType type>
void enter(const char* kind) {
  if (is(kind)) c10::impl::DeviceGuardImplRegistrar(type, new Guard<type>());
}

const bool entered = (enter<DeviceType::CUDA>("cuda"), enter<DeviceType::MPS>("mps"), true);

template <typename Interface, DeviceType type>
struct Hooks : Interface {
  static bool there() { return is(type == DeviceType::MPS ? "mps" : "cuda"); }
  bool isBuilt() const override { return there(); }
  bool isAvailable() const override { return there(); }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  bool isPinnedPtr(const void*) const override { return false; }
  void init() const override {}
};

}  // namespace

namespace at {

struct StandInForCUDA final : Hooks<CUDAHooksInterface, DeviceType::CUDA> {
  explicit StandInForCUDA(CUDAHooksArgs) {}
  bool hasCUDA() const override { return there(); }
};
struct StandInForMPS final : Hooks<MPSHooksInterface, DeviceType::MPS> {
  bool hasMPS() const override { return there(); }
};
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, StandInForCUDA)
C10_REGISTER_CLASS(MPSHooksRegistry, MPSHooks, StandInForMPS)

}  // namespace at
