# find_package(edgeemo): targets edgeemo::edgeemo (shared) and edgeemo::static, next to this file's folder.
get_filename_component(_edgeemo_lib "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
get_filename_component(_edgeemo_include "${_edgeemo_lib}/../include" ABSOLUTE)
if(NOT EXISTS "${_edgeemo_include}/edgeemo.h")
  get_filename_component(_edgeemo_include "${_edgeemo_lib}/../../include" ABSOLUTE) # lib/<triplet>
endif()
if(NOT TARGET edgeemo::edgeemo)
  add_library(edgeemo::edgeemo SHARED IMPORTED)
  set_target_properties(edgeemo::edgeemo PROPERTIES IMPORTED_LOCATION "${_edgeemo_lib}/libedgeemo.so"
                                                    INTERFACE_INCLUDE_DIRECTORIES "${_edgeemo_include}")
  add_library(edgeemo::static STATIC IMPORTED)
  set_target_properties(edgeemo::static PROPERTIES IMPORTED_LOCATION "${_edgeemo_lib}/libedgeemo.a" INTERFACE_LINK_LIBRARIES m
                                                   INTERFACE_INCLUDE_DIRECTORIES "${_edgeemo_include}")
endif()
